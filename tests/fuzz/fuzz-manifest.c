/*
 * CLI manifests: one is refused with its line and column, or it renders a command that a launcher can run: absolute
 * program, NAME=value environment, nothing of the prompt in either; and its output mapping takes an agent's lines.
 */

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "adapter/adapter.h"
#include "base/fd.h"
#include "base/json.h"
#include "fuzz.h"

#define PROMPT "prompt-that-must-not-be-in-argv"

static const char *const lines[] = {
        "{\"type\":\"thread.started\",\"thread_id\":\"0\"}",
        "{\"type\":\"item.completed\",\"item\":{\"type\":\"agent_message\",\"text\":\"hi\"}}",
        "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":5,\"cached_input_tokens\":1,\"output_tokens\":2}}",
        "{\"type\":\"turn.failed\",\"error\":{\"message\":\"unexpected status 429 Too Many Requests\"}}",
        "plain text",
        "",
};

static int on_event(void *userdata, const char *type, const char *data, size_t n_data) {
        _cleanup_(json_putp) json_object *o = NULL;
        JsonError e = {};

        HOLDS(type && *type);
        HOLDS(json_parse(data, n_data, JSON_DEPTH_MAX, &o, &e) == 0);
        HOLDS(json_object_is_type(o, json_type_object));
        return 0;
}

static void check_command(const Adapter *a) {
        StoreTask task = { .run_as_uid = -1,
                           .agent = (char *)adapter_name(a),
                           .model = (char *)"model",
                           .prompt = (char *)PROMPT,
                           .n_prompt = strlen(PROMPT),
                           .workspace = (char *)"/srv/w",
                           .request = (char *)"{}" };
        _cleanup_(adapter_command_freep) AdapterCommand *command = NULL;
        char error[YAML_ERROR_MAX] = "";
        int r;

        r = adapter_render(a, &task, "/home/task", &command, error);
        HOLDS(r == 0 || r == ADAPTER_E_UNSUPPORTED);
        if (r) {
                HOLDS(error[0]);
                return;
        }
        HOLDS(command->argv[0] && command->argv[0][0] == '/');
        for (char **p = command->argv; *p; p++)
                HOLDS(!strstr(*p, PROMPT));
        for (char **p = command->environment; p && *p; p++)
                HOLDS(strchr(*p, '=') > *p && !strstr(*p, PROMPT));
        for (char **p = command->read_only; p && *p; p++)
                HOLDS((*p)[0] == '/');
        for (char **p = command->home_files; p && *p; p += 2)
                HOLDS(p[1] && **p && **p != '/' && !strstr(*p, ".."));
        HOLDS(command->n_stdin >= strlen(PROMPT) && strstr(command->stdin_data, PROMPT));
}

static void check_output(Adapter *a) {
        _cleanup_(adapter_run_freep) AdapterRun *run = NULL;
        AdapterOutcome outcome;

        HOLDS(adapter_run_new(&run, a) == 0);
        for (size_t i = 0; i < ELEMENTSOF(lines); i++)
                HOLDS(adapter_run_line(run, 1 + (i == 4), lines[i], strlen(lines[i]), on_event, NULL) == 0);
        adapter_run_finish(run, 0, 0, 0, &outcome);
        HOLDS(outcome.reason && *outcome.reason);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        AdapterConfig config = { .name = "fuzz", .path = (char *)"/bin/true" };
        _cleanup_(adapter_freep) Adapter *a = NULL;
        _cleanup_close_ int fd = -1;
        char path[64], error[YAML_ERROR_MAX] = "";
        int r;

        fd = memfd_create("agent.yaml", MFD_CLOEXEC);
        HOLDS(fd >= 0);
        HOLDS(fd_write_all(fd, data, n) == 0);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        r = adapter_load(&a, AT_FDCWD, path, &config, error);
        HOLDS(r == 0 || r == ADAPTER_E_INVALID);
        if (r) {
                HOLDS(error[0] && !a);
                return 0;
        }
        HOLDS(adapter_name(a) && adapter_title(a) && adapter_hint(a));
        HOLDS(adapter_concurrency(a) > 0);
        r = adapter_probe(a);
        HOLDS(r == 0 || r == ADAPTER_E_NOT_INSTALLED);
        check_command(a);
        check_output(a);
        return 0;
}
