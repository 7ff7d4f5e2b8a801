/*
 * YAML: a document is refused with its name, line and column, or its tree is within the bounds, knows where each node
 * stands, and has no key twice; and the getters give what they say.
 */

#include "base/yaml.h"
#include "fuzz.h"

static size_t n_nodes;

static void check_node(const YamlNode *node, size_t depth) {
        HOLDS(depth <= YAML_DEPTH_MAX);
        HOLDS(++n_nodes <= YAML_NODES_MAX);
        HOLDS(node->line >= 1 && node->column >= 1);
        if (node->kind == YAML_SCALAR) {
                HOLDS(node->text && strlen(node->text) == node->n_text);
                HOLDS(node->n == 0);
        }
        for (size_t i = 0; i < node->n; i++) {
                if (node->kind == YAML_MAPPING) {
                        HOLDS(node->keys[i]->kind == YAML_SCALAR);
                        check_node(node->keys[i], depth + 1);
                        for (size_t k = 0; k < i && node->n <= 64; k++)
                                HOLDS(!streq(node->keys[i]->text, node->keys[k]->text));
                }
                check_node(node->items[i], depth + 1);
        }
}

/* Reads it as a configuration might. */
static void check_getters(YamlDocument *d) {
        YamlNode *node = NULL, *value;
        const char *s = NULL;
        uint64_t v = 7;
        bool b;

        if (d->root->kind != YAML_MAPPING)
                return;
        value = yaml_get(d, d->root, "version");
        HOLDS(!value || value->seen);
        if (yaml_get_u64(d, d->root, "version", 1, 9, &v))
                HOLDS(v >= 1 && v <= 9);
        else
                HOLDS(v == 7);
        if (yaml_get_str(d, d->root, "name", &s))
                HOLDS(s);
        (void)yaml_get_bool(d, d->root, "enabled", &b);
        (void)yaml_get_duration_us(d, d->root, "timeout", &v);
        (void)yaml_get_size(d, d->root, "body", &v);
        if (yaml_get_mapping(d, d->root, "limits", &node))
                HOLDS(node->kind == YAML_MAPPING);
        if (yaml_get_sequence(d, d->root, "require", &node))
                HOLDS(node->kind == YAML_SEQUENCE);
        yaml_end(d, d->root);
        HOLDS(d->failed == (d->error[0] != 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(yaml_freep) YamlDocument *d = NULL;
        int r;

        n_nodes = 0;
        r = yaml_load("fuzz.yaml", (const char *)data, n, &d);
        HOLDS(r == 0 || r == YAML_E_INVALID);
        HOLDS(d);
        HOLDS(d->failed == (r != 0));
        if (r) {
                HOLDS(str_starts(d->error, "fuzz.yaml:"));
                return 0;
        }
        HOLDS(d->root);
        check_node(d->root, 0);
        check_getters(d);
        return 0;
}
