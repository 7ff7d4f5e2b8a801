#include <assert.h>

#include "adapter/internal.h"
#include "base/parse.h"

/*
 * The manifest's output mapping: rules of what a line must look like (`match`) and what it then means (`emit`,
 * `session`, `usage`, `success`), and the table that classifies an attempt's end by HTTP status, error text and exit
 * code.
 */

const EventInfo event_infos[_EVENT_N] = {
        [EVENT_NONE]        = { "none",        { NULL },                                             0 },
        [EVENT_TEXT]        = { "text",        { "text" },                                           1 },
        [EVENT_TOOL_CALL]   = { "tool_call",   { "name", "input" },                                  1 },
        [EVENT_TOOL_RESULT] = { "tool_result", { "name", "output", "exit_code", "is_error" },        0 },
        [EVENT_WARNING]     = { "warning",     { "message" },                                        1 },
        [EVENT_ERROR]       = { "error",       { "message", "status" },                              1 },
        [EVENT_RESULT]      = { "result",      { "text" },                                           0 },
};

const char *const usage_field_names[USAGE_FIELDS] = {
        "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_usd",
};
static_assert(sizeof(StoreUsage) == USAGE_FIELDS * sizeof(int64_t), "usage_field_names mirrors StoreUsage");

#define STATUS_MIN 100
#define STATUS_MAX 599
#define EXIT_MAX 255

static void matches_free(Match *matches, size_t n) {
        for (size_t i = 0; i < n; i++) {
                free(matches[i].pointer);
                strv_free(matches[i].values);
        }
        free(matches);
}

void rule_deinit(Rule *rule) {
        matches_free(rule->matches, rule->n_matches);
        matches_free(rule->where, rule->n_where);
        free(rule->each);
        free(rule->session);
        for (size_t i = 0; i < EVENT_FIELDS_MAX; i++) {
                free(rule->fields[i].pointer);
                free(rule->fields[i].literal);
        }
        for (size_t i = 0; i < USAGE_FIELDS; i++)
                free(rule->usage[i]);
}

void error_rule_deinit(ErrorRule *rule) {
        free(rule->status);
        strv_free(rule->contains);
        free(rule->exit);
}

static bool load_pointer(YamlDocument *d, const YamlNode *node, char **ret_pointer) {
        if (!manifest_dup(d, node, ret_pointer))
                return false;
        if ((*ret_pointer)[0] != '/') {
                yaml_fail(d, node, "'%s' is no JSON Pointer; expected one such as '/item/text'", *ret_pointer);
                return false;
        }
        for (const char *s = *ret_pointer; (s = strchr(s, '~')); s++)
                if (s[1] != '0' && s[1] != '1') {
                        yaml_fail(d, node, "'%s' is no JSON Pointer: '~' is written '~0' and a '/' in a name '~1'",
                                  *ret_pointer);
                        return false;
                }
        return true;
}

static bool load_match(YamlDocument *d, YamlNode *value, Match *match) {
        YamlNode *node;
        bool exists = true;

        if (value->kind != YAML_MAPPING)
                return manifest_list(d, value, MANIFEST_VALUES_MAX, &match->values, &match->n_values);
        node = yaml_get(d, value, "prefix");
        if (node) {
                match->kind = MATCH_PREFIX;
                if (!manifest_list(d, node, MANIFEST_VALUES_MAX, &match->values, &match->n_values))
                        return false;
        } else if (yaml_get(d, value, "exists")) {
                if (!manifest_got(d, value, "exists", yaml_get_bool(d, value, "exists", &exists)))
                        return false;
                match->kind = exists ? MATCH_EXISTS : MATCH_ABSENT;
        } else if (value->n == 0) {
                yaml_fail(d, value, "expected a value, a list of values, 'prefix:' or 'exists:'");
                return false;
        }
        yaml_end(d, value);
        return !d->failed;
}

static bool load_matches(YamlDocument *d, YamlNode *mapping, const char *key, Match **ret_matches, size_t *n_matches) {
        YamlNode *node;

        if (!manifest_got(d, mapping, key, yaml_get_mapping(d, mapping, key, &node)))
                return false;
        if (node->n == 0) {
                yaml_fail(
                        d, node,
                        "an empty '%s' would match every line; expected pointers and values, such as '/type: message'",
                        key);
                return false;
        }
        *ret_matches = manifest_array(d, node, node->n, MANIFEST_MATCHES_MAX, sizeof(**ret_matches), "conditions");
        if (!*ret_matches)
                return false;
        for (size_t i = 0; i < node->n; i++) {
                Match *match = &(*ret_matches)[(*n_matches)++];
                if (!load_pointer(d, node->keys[i], &match->pointer) || !load_match(d, node->items[i], match))
                        return false;
        }
        return true;
}

static bool load_emit(YamlDocument *d, YamlNode *item, Rule *rule) {
        YamlNode *node = yaml_get(d, item, "emit"), *data = NULL;
        const EventInfo *info;

        if (node) {
                EventType type = EVENT_NONE + 1;
                while (type < _EVENT_N && !(node->kind == YAML_SCALAR && streq(node->text, event_infos[type].name)))
                        type++;
                if (type == _EVENT_N) {
                        yaml_fail(d, node,
                                  "unknown event '%s'; expected text, tool_call, tool_result, warning, error or result",
                                  node->kind == YAML_SCALAR ? node->text : "");
                        return false;
                }
                rule->emit = type;
        }
        info = &event_infos[rule->emit];
        if (!manifest_optional(yaml_get_mapping, d, item, "data", &data))
                return false;
        if (data && !node) {
                yaml_fail(d, data, "'data' without 'emit': say which event it is for");
                return false;
        }
        for (size_t i = 0; i < EVENT_FIELDS_MAX && info->fields[i]; i++) {
                YamlNode *value = data ? yaml_get(d, data, info->fields[i]) : NULL;
                if (!value) {
                        if (i < info->n_needed) {
                                yaml_fail(d, data ?: item, "the event '%s' needs 'data: {%s: /pointer}'", info->name,
                                          info->fields[i]);
                                return false;
                        }
                        continue;
                }
                if (value->kind == YAML_SCALAR && value->text[0] == '=') {
                        rule->fields[i].literal = strdup(value->text + 1);
                        if (!rule->fields[i].literal) {
                                yaml_fail(d, value, "out of memory");
                                return false;
                        }
                } else if (value->kind == YAML_SCALAR && value->text[0] == '/') {
                        if (!load_pointer(d, value, &rule->fields[i].pointer))
                                return false;
                } else {
                        yaml_fail(d, value,
                                  "expected a JSON Pointer such as '/item/text', or '=text' for the text itself");
                        return false;
                }
        }
        if (data)
                yaml_end(d, data);
        return !d->failed;
}

static bool load_answer(YamlDocument *d, YamlNode *item, Rule *rule) {
        YamlNode *node = yaml_get(d, item, "answer");
        const char *mode = node && node->kind == YAML_SCALAR ? node->text : "";

        rule->answer = rule->emit == EVENT_TEXT ? ANSWER_LAST : ANSWER_NONE;
        if (!node)
                return true;
        if (rule->emit != EVENT_TEXT) {
                yaml_fail(d, node, "'answer' belongs to 'emit: text'");
                return false;
        }
        if (streq(mode, "last"))
                rule->answer = ANSWER_LAST;
        else if (streq(mode, "join"))
                rule->answer = ANSWER_JOIN;
        else if (streq(mode, "none"))
                rule->answer = ANSWER_NONE;
        else {
                yaml_fail(d, node,
                          "expected 'last' (the last text is the answer), 'join' (texts are its pieces) or 'none'");
                return false;
        }
        return true;
}

static bool load_usage(YamlDocument *d, YamlNode *item, Rule *rule) {
        YamlNode *usage, *node;
        const char *mode = "last";
        bool any = false;

        if (!yaml_get(d, item, "usage"))
                return true;
        if (!manifest_got(d, item, "usage", yaml_get_mapping(d, item, "usage", &usage)))
                return false;
        rule->has_usage = true;
        node = yaml_get(d, usage, "mode");
        if (node && !manifest_got(d, usage, "mode", yaml_get_str(d, usage, "mode", &mode)))
                return false;
        if (streq(mode, "last"))
                rule->usage_mode = USAGE_LAST;
        else if (streq(mode, "sum"))
                rule->usage_mode = USAGE_SUM;
        else if (streq(mode, "cumulative"))
                rule->usage_mode = USAGE_CUMULATIVE;
        else {
                yaml_fail(d, node,
                          "expected 'last' (the run so far), 'sum' (one message each) or 'cumulative' (the whole "
                          "session)");
                return false;
        }
        for (size_t i = 0; i < USAGE_FIELDS; i++) {
                node = yaml_get(d, usage, usage_field_names[i]);
                if (node && !load_pointer(d, node, &rule->usage[i]))
                        return false;
                any = any || node;
        }
        yaml_end(d, usage);
        if (!any)
                yaml_fail(d, usage, "'usage' names no number; expected 'input_tokens: /pointer' and the like");
        return !d->failed;
}

static bool load_rule(YamlDocument *d, YamlNode *item, Rule *rule) {
        YamlNode *node;

        if (item->kind != YAML_MAPPING) {
                yaml_fail(d, item,
                          "expected a rule: 'match:' and what it means ('emit:', 'session:', 'usage:', 'success:')");
                return false;
        }
        if (!yaml_get(d, item, "match")) {
                yaml_fail(d, item, "missing key 'match': what a line must look like");
                return false;
        }
        if (!load_matches(d, item, "match", &rule->matches, &rule->n_matches))
                return false;
        node = yaml_get(d, item, "each");
        if (node && !load_pointer(d, node, &rule->each))
                return false;
        node = yaml_get(d, item, "where");
        if (node && !rule->each) {
                yaml_fail(d, node, "'where' is about the elements of 'each'; without it use 'match'");
                return false;
        }
        if (node && !load_matches(d, item, "where", &rule->where, &rule->n_where))
                return false;
        node = yaml_get(d, item, "session");
        if (node && !load_pointer(d, node, &rule->session))
                return false;
        if (!manifest_optional(yaml_get_bool, d, item, "success", &rule->success))
                return false;
        if (!load_emit(d, item, rule) || !load_answer(d, item, rule) || !load_usage(d, item, rule))
                return false;
        yaml_end(d, item);
        return !d->failed;
}

static bool load_numbers(YamlDocument *d, YamlNode *node, uint64_t min, uint64_t max, uint32_t **ret_numbers,
                         size_t *ret_n) {
        YamlNode *const one[] = { node };
        YamlNode *const *items = node->kind == YAML_SEQUENCE ? node->items : one;
        size_t n = node->kind == YAML_SEQUENCE ? node->n : 1;

        *ret_numbers = manifest_array(d, node, n, MANIFEST_VALUES_MAX, sizeof(**ret_numbers), "numbers");
        if (!*ret_numbers)
                return false;
        for (size_t i = 0; i < n; i++) {
                uint64_t v;
                if (items[i]->kind != YAML_SCALAR || !parse_u64_range(items[i]->text, min, max, &v)) {
                        yaml_fail(d, items[i], "expected a number from %llu to %llu", (unsigned long long)min,
                                  (unsigned long long)max);
                        return false;
                }
                (*ret_numbers)[i] = (uint32_t)v;
        }
        *ret_n = n;
        return true;
}

static bool load_error_rule(YamlDocument *d, YamlNode *item, ErrorRule *rule) {
        YamlNode *node;

        if (item->kind != YAML_MAPPING) {
                yaml_fail(d, item, "expected an entry with 'status:', 'contains:' or 'exit:', and 'reason:'");
                return false;
        }
        node = yaml_get(d, item, "status");
        if (node && !load_numbers(d, node, STATUS_MIN, STATUS_MAX, &rule->status, &rule->n_status))
                return false;
        node = yaml_get(d, item, "contains");
        if (node && !manifest_list(d, node, MANIFEST_VALUES_MAX, &rule->contains, &rule->n_contains))
                return false;
        node = yaml_get(d, item, "exit");
        if (node && !load_numbers(d, node, 1, EXIT_MAX, &rule->exit, &rule->n_exit))
                return false;
        if (!rule->n_status && !rule->n_contains && !rule->n_exit) {
                yaml_fail(d, item, "the entry matches nothing; expected 'status:', 'contains:' or 'exit:'");
                return false;
        }
        node = yaml_get(d, item, "reason");
        if (!node) {
                yaml_fail(d, item, "missing key 'reason'");
                return false;
        }
        rule->reason = node->kind == YAML_SCALAR ? reason_from_name(node->text) : _REASON_N;
        if (rule->reason == _REASON_N || rule->reason == REASON_COMPLETED) {
                yaml_fail(d, node,
                          "expected authentication, rate_limited, quota, overloaded, invalid_request, network, "
                          "out_of_memory, no_result, exit_status, signal or permanent");
                return false;
        }
        rule->retryable = reason_is_retryable(rule->reason);
        if (!manifest_optional(yaml_get_bool, d, item, "retryable", &rule->retryable))
                return false;
        if (!manifest_optional(yaml_get_duration_us, d, item, "retry_after", &rule->retry_after_us))
                return false;
        yaml_end(d, item);
        return !d->failed;
}

bool manifest_output(Adapter *a, YamlDocument *d, YamlNode *root) {
        YamlNode *output, *node, *events = NULL;

        if (!yaml_get(d, root, "output")) {
                yaml_fail(d, root, "missing key 'output'");
                return false;
        }
        if (!manifest_got(d, root, "output", yaml_get_mapping(d, root, "output", &output)))
                return false;
        node = yaml_get(d, output, "format");
        if (!node) {
                yaml_fail(d, output, "missing key 'format'; expected 'json-lines' or 'text'");
                return false;
        }
        if (node->kind == YAML_SCALAR && streq(node->text, "json-lines"))
                a->format = OUTPUT_JSON_LINES;
        else if (node->kind == YAML_SCALAR && streq(node->text, "text"))
                a->format = OUTPUT_TEXT;
        else {
                yaml_fail(d, node, "expected 'json-lines' (one JSON object a line) or 'text' (stdout is the answer)");
                return false;
        }
        node = yaml_get(d, output, "events");
        if (node && a->format == OUTPUT_TEXT) {
                yaml_fail(d, node, "'events' needs 'format: json-lines'");
                return false;
        }
        if (!node && a->format == OUTPUT_JSON_LINES) {
                yaml_fail(d, output, "missing key 'events': without rules no line means anything");
                return false;
        }
        if (node) {
                if (!manifest_got(d, output, "events", yaml_get_sequence(d, output, "events", &events)))
                        return false;
                a->rules = manifest_array(d, events, events->n, MANIFEST_RULES_MAX, sizeof(*a->rules), "rules");
                if (!a->rules)
                        return false;
                for (size_t i = 0; i < events->n; i++) {
                        if (!load_rule(d, events->items[i], &a->rules[a->n_rules++]))
                                return false;
                        a->needs_success = a->needs_success || a->rules[i].success;
                }
        }
        yaml_end(d, output);
        if (d->failed)
                return false;
        if (!yaml_get(d, root, "errors"))
                return true;
        if (!manifest_got(d, root, "errors", yaml_get_sequence(d, root, "errors", &node)))
                return false;
        a->errors = manifest_array(d, node, node->n, MANIFEST_LIST_MAX, sizeof(*a->errors), "entries");
        if (!a->errors)
                return false;
        for (size_t i = 0; i < node->n; i++)
                if (!load_error_rule(d, node->items[i], &a->errors[a->n_errors++]))
                        return false;
        return true;
}
