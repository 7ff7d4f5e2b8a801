#include <unistd.h>

#include "base/error.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/table.h"
#include "ctl/text.h"

int verb_key_create(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        const char *name = NULL, *role = NULL, *run_as = NULL, *text;
        const Option options[] = {
                { "name", 'n', "NAME", "name of the key, for lists and logs (required)", .text = &name },
                { "role", 'r', "ROLE", "submitter (its own tasks alone) or admin; submitter", .text = &role },
                { "run-as", 0, "USER", "Unix user that its tasks run as; root alone may set it", .text = &run_as },
                {},
        };
        _cleanup_(json_putp) json_object *body = NULL, *key = NULL;
        ClientRequest request = { .method = "POST", .path = "/v1/keys" };
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (!name || n)
                return ctl_fail(CTL_USAGE, "expected a name: agent-routerctl key create --name NAME");
        if (!utf8_is_valid(name, strlen(name)) || (run_as && !utf8_is_valid(run_as, strlen(run_as))))
                return ctl_fail(CTL_USAGE, "--name, --run-as: expected UTF-8");
        if (role && !streq(role, "submitter") && !streq(role, "admin"))
                return ctl_fail(CTL_USAGE, "--role '%s': expected submitter or admin", role);
        body = json_object_new_object();
        json_object_object_add(body, "name", json_object_new_string(name));
        json_object_object_add(body, "role", json_object_new_string(role ?: "submitter"));
        if (run_as)
                json_object_object_add(body, "run_as", json_object_new_string(run_as));
        request.body = json_object_to_json_string_length(body, JSON_C_TO_STRING_PLAIN, &request.n_body);
        r = client_call(ctl, &request, &key);
        if (r)
                return r;
        if (ctl->json) {
                text_print_json(key);
                return CTL_OK;
        }
        text = text_member(key, "/key");
        if (!*text)
                return ctl_fail(CTL_BUSY, "the answer holds no key; is this an agent-router?");
        puts(text);
        if (isatty(STDERR_FILENO))
                fprintf(stderr, "it is shown this once; the router keeps a hash alone\n");
        return CTL_OK;
}

int verb_key_list(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;
        _cleanup_(json_putp) json_object *answer = NULL;
        json_object *keys;
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "key list takes no arguments, got '%s'", argv[0]);
        r = client_call(ctl, &(ClientRequest){ .method = "GET", .path = "/v1/keys" }, &answer);
        if (r)
                return r;
        if (ctl->json) {
                text_print_json(answer);
                return CTL_OK;
        }
        keys = json_at(answer, "/keys");
        if (!json_object_is_type(keys, json_type_array) || !json_object_array_length(keys)) {
                puts("no keys yet; make one with: agent-routerctl key create --name NAME");
                return CTL_OK;
        }
        table_column(&t, "name", TABLE_LEFT);
        table_column(&t, "role", TABLE_LEFT);
        table_column(&t, "runs as", TABLE_LEFT);
        table_column(&t, "created", TABLE_LEFT);
        table_column(&t, "by", TABLE_LEFT);
        table_column(&t, "state", TABLE_LEFT);
        for (size_t i = 0; i < json_object_array_length(keys); i++) {
                json_object *key = json_object_array_get_idx(keys, i);
                const char *revoked = text_member(key, "/revoked_at");
                table_add(&t, text_member(key, "/name"));
                table_add(&t, text_member(key, "/role"));
                table_add(&t, text_member(key, "/run_as"));
                table_add(&t, text_member(key, "/created_at"));
                table_add(&t, text_member(key, "/created_by"));
                if (*revoked)
                        table_addf(&t, "revoked %s", revoked);
                else
                        table_add_color(&t, "valid", "\033[32m");
        }
        return table_print(&t, stdout, ctl->width, ctl->color);
}

int verb_key_revoke(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        _cleanup_free_ char *path = NULL;
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n != 1)
                return ctl_fail(CTL_USAGE, "expected the name of one key: agent-routerctl key revoke NAME");
        r = client_path("/v1/keys/", argv[0], "", &path);
        r = r ?: client_call(ctl, &(ClientRequest){ .method = "DELETE", .path = path }, NULL);
        if (r)
                return r;
        if (ctl->json)
                puts("{\"revoked\":true}");
        else {
                fputs("key ", stdout);
                text_write_line(stdout, argv[0], 0);
                puts(" is revoked");
        }
        return CTL_OK;
}
