#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <yaml.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/parse.h"
#include "base/yaml.h"

/*
 * The tree is built from libyaml's events rather than by its composer, so that aliases, depth and counts are refused
 * before anything is allocated for them. The recursion is bounded by YAML_DEPTH_MAX.
 */

typedef struct YamlLoader {
        yaml_parser_t parser;
        YamlDocument *document;
        size_t n_nodes;
} YamlLoader;

static YamlNode *yaml_node_free(YamlNode *node) {
        if (!node)
                return NULL;
        for (size_t i = 0; i < node->n; i++) {
                if (node->keys)
                        yaml_node_free(node->keys[i]);
                yaml_node_free(node->items[i]);
        }
        free(node->keys);
        free(node->items);
        free(node->text);
        free(node->known);
        free(node);
        return NULL;
}
DEFINE_CLEANUP(YamlNode, yaml_node_free);

YamlDocument *yaml_free(YamlDocument *document) {
        if (!document)
                return NULL;
        yaml_node_free(document->root);
        free(document->name);
        free(document);
        return NULL;
}

static void _printf_(4, 0)
        yaml_record(YamlDocument *d, unsigned line, unsigned column, const char *format, va_list ap) {
        int n;

        if (d->failed)
                return;
        d->failed = true;
        if (line)
                n = snprintf(d->error, sizeof(d->error), "%s:%u:%u: ", d->name, line, column);
        else
                n = snprintf(d->error, sizeof(d->error), "%s: ", d->name);
        if (n > 0 && (size_t)n < sizeof(d->error))
                vsnprintf(d->error + n, sizeof(d->error) - (size_t)n, format, ap);
}

void yaml_fail(YamlDocument *d, const YamlNode *at, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        yaml_record(d, at ? at->line : 0, at ? at->column : 0, format, ap);
        va_end(ap);
}

static int _printf_(3, 4) yaml_fail_mark(YamlDocument *d, const yaml_mark_t *mark, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        yaml_record(d, (unsigned)mark->line + 1, (unsigned)mark->column + 1, format, ap);
        va_end(ap);
        return YAML_E_INVALID;
}

/* Turns libyaml's complaint into ours. A reader error (encoding) has an offset in the input, not a mark. */
static int yaml_fail_parser(YamlLoader *l, const char *data, size_t n) {
        const yaml_parser_t *p = &l->parser;
        yaml_mark_t mark = p->problem_mark;

        if (p->error == YAML_MEMORY_ERROR)
                return error_origin(-ENOMEM);
        if (p->error == YAML_READER_ERROR) {
                mark = (yaml_mark_t){};
                for (size_t i = 0; i < n && i < p->problem_offset; i++)
                        if (data[i] == '\n') {
                                mark.line++;
                                mark.column = 0;
                        } else
                                mark.column += ((uint8_t)data[i] & 0xc0) != 0x80;
        }
        return yaml_fail_mark(l->document, &mark, "%s%s%s; expected YAML (check indentation, colons and quotes here)",
                              p->problem ?: "syntax error", p->context ? " " : "", p->context ?: "");
}

static int yaml_node_new(YamlLoader *l, const yaml_mark_t *mark, YamlKind kind, YamlNode **ret_node) {
        YamlNode *node;

        if (++l->n_nodes > YAML_NODES_MAX)
                return yaml_fail_mark(l->document, mark, "too many nodes; expected at most %d", YAML_NODES_MAX);
        node = calloc(1, sizeof(*node));
        if (!node)
                return error_origin(-ENOMEM);
        node->kind = kind;
        node->line = (unsigned)mark->line + 1;
        node->column = (unsigned)mark->column + 1;
        *ret_node = node;
        return 0;
}

static int yaml_node_grow(YamlNode *node) {
        size_t capacity;
        YamlNode **p;

        /* Capacities are powers of two from 8, so n tells when the arrays are full. */
        if (node->n && (node->n < 8 || (node->n & (node->n - 1))))
                return 0;
        capacity = node->n ? node->n * 2 : 8;
        p = reallocarray(node->items, capacity, sizeof(*p));
        if (!p)
                return error_origin(-ENOMEM);
        node->items = p;
        if (node->kind == YAML_MAPPING) {
                p = reallocarray(node->keys, capacity, sizeof(*p));
                if (!p)
                        return error_origin(-ENOMEM);
                node->keys = p;
        }
        return 0;
}

static int yaml_build(YamlLoader *l, const yaml_event_t *event, unsigned depth, YamlNode **ret_node);

static int yaml_check_key(YamlLoader *l, const yaml_event_t *event, const YamlNode *mapping) {
        if (event->type != YAML_SCALAR_EVENT)
                return event->type == YAML_ALIAS_EVENT ? 0 :    /* yaml_build() has the message for it */
                        yaml_fail_mark(l->document, &event->start_mark, "a key that is not a word; expected `key: value`");
        if (mapping->n >= YAML_KEYS_MAX)
                return yaml_fail_mark(l->document, &event->start_mark, "too many keys; expected at most %d in a mapping",
                                      YAML_KEYS_MAX);
        for (size_t i = 0; i < mapping->n; i++)
                if (mapping->keys[i]->n_text == event->data.scalar.length &&
                    memcmp(mapping->keys[i]->text, event->data.scalar.value, event->data.scalar.length) == 0)
                        return yaml_fail_mark(l->document, &event->start_mark,
                                              "key \"%s\" is here twice; the first is in line %u",
                                              mapping->keys[i]->text, mapping->keys[i]->line);
        return 0;
}

/* The children of a collection, up to its end event. */
static int yaml_build_children(YamlLoader *l, YamlNode *node, unsigned depth) {
        const yaml_event_type_t end = node->kind == YAML_MAPPING ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
        _cleanup_(yaml_node_freep) YamlNode *key = NULL;

        for (;;) {
                yaml_event_t event;
                YamlNode *child = NULL;
                int r = 0;

                if (!yaml_parser_parse(&l->parser, &event))
                        return YAML_E_INVALID;
                if (event.type == end) {
                        yaml_event_delete(&event);
                        return 0;
                }
                if (node->kind == YAML_MAPPING && !key)
                        r = yaml_check_key(l, &event, node);
                if (!r)
                        r = yaml_build(l, &event, depth + 1, &child);
                yaml_event_delete(&event);
                if (r)
                        return r;
                if (node->kind == YAML_MAPPING && !key) {
                        key = child;
                        continue;
                }
                r = yaml_node_grow(node);
                if (r) {
                        yaml_node_free(child);
                        return error_trace(r);
                }
                if (node->kind == YAML_MAPPING)
                        node->keys[node->n] = steal_ptr(&key);
                node->items[node->n++] = child;
        }
}

static int yaml_build_scalar(YamlLoader *l, const yaml_event_t *event, YamlNode **ret_node) {
        _cleanup_(yaml_node_freep) YamlNode *node = NULL;
        size_t n = event->data.scalar.length;
        int r;

        if (memchr(event->data.scalar.value, 0, n))
                return yaml_fail_mark(l->document, &event->start_mark, "a NUL character; expected text without one");
        r = yaml_node_new(l, &event->start_mark, YAML_SCALAR, &node);
        if (r)
                return r;
        node->text = strndup((const char *)event->data.scalar.value, n);
        if (!node->text)
                return error_origin(-ENOMEM);
        node->n_text = n;
        node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        *ret_node = steal_ptr(&node);
        return 0;
}

static int yaml_build(YamlLoader *l, const yaml_event_t *event, unsigned depth, YamlNode **ret_node) {
        _cleanup_(yaml_node_freep) YamlNode *node = NULL;
        const yaml_mark_t *mark = &event->start_mark;
        const char *tag = NULL;
        int r;

        switch (event->type) {
        case YAML_ALIAS_EVENT:
                return yaml_fail_mark(l->document, mark, "an alias (*%s); expected a value: aliases are not supported, "
                                      "write it out", event->data.alias.anchor);
        case YAML_SCALAR_EVENT:
                tag = (const char *)event->data.scalar.tag;
                break;
        case YAML_SEQUENCE_START_EVENT:
                tag = (const char *)event->data.sequence_start.tag;
                break;
        case YAML_MAPPING_START_EVENT:
                tag = (const char *)event->data.mapping_start.tag;
                break;
        default:
                return error_origin(-ENOTRECOVERABLE);
        }
        if (tag)
                return yaml_fail_mark(l->document, mark, "a tag (%s); expected a value: tags are not supported", tag);
        if (event->type == YAML_SCALAR_EVENT)
                return yaml_build_scalar(l, event, ret_node);
        if (depth > YAML_DEPTH_MAX)
                return yaml_fail_mark(l->document, mark, "nested too deeply; expected at most %d levels", YAML_DEPTH_MAX);
        r = yaml_node_new(l, mark, event->type == YAML_MAPPING_START_EVENT ? YAML_MAPPING : YAML_SEQUENCE, &node);
        if (r)
                return r;
        r = yaml_build_children(l, node, depth);
        if (r)
                return r;
        *ret_node = steal_ptr(&node);
        return 0;
}

/* stream start, document start, root, document end, stream end. */
static int yaml_build_root(YamlLoader *l) {
        bool in_document = false;

        for (;;) {
                yaml_event_t event;
                bool end = false;
                int r = 0;

                if (!yaml_parser_parse(&l->parser, &event))
                        return YAML_E_INVALID;
                switch (event.type) {
                case YAML_STREAM_START_EVENT:
                case YAML_DOCUMENT_END_EVENT:
                        break;
                case YAML_DOCUMENT_START_EVENT:
                        if (in_document)
                                r = yaml_fail_mark(l->document, &event.start_mark,
                                                   "a second document; expected one in a file: remove the `---`");
                        in_document = true;
                        break;
                case YAML_STREAM_END_EVENT:
                        end = true;
                        break;
                default:
                        r = yaml_build(l, &event, 1, &l->document->root);
                }
                yaml_event_delete(&event);
                if (r || end)
                        return r;
        }
}

static bool yaml_is_null(const YamlNode *node) {
        return node->kind == YAML_SCALAR && !node->quoted &&
                (node->n_text == 0 || streq(node->text, "~") || streq(node->text, "null"));
}

static int yaml_document_new(const char *name, YamlDocument **ret_document) {
        _cleanup_(yaml_freep) YamlDocument *d = calloc(1, sizeof(*d));

        if (!d)
                return error_origin(-ENOMEM);
        d->name = strdup(name);
        if (!d->name)
                return error_origin(-ENOMEM);
        *ret_document = steal_ptr(&d);
        return 0;
}

int yaml_load(const char *name, const char *data, size_t n, YamlDocument **ret_document) {
        _cleanup_(yaml_freep) YamlDocument *d = NULL;
        YamlLoader l = {};
        int r;

        r = yaml_document_new(name, &d);
        if (r)
                return error_trace(r);
        if (n > YAML_SIZE_MAX) {
                yaml_fail(d, NULL, "the file has more than %zu bytes; expected a smaller one", YAML_SIZE_MAX);
                *ret_document = steal_ptr(&d);
                return YAML_E_INVALID;
        }
        l.document = d;
        if (!yaml_parser_initialize(&l.parser))
                return error_origin(-ENOMEM);
        yaml_parser_set_input_string(&l.parser, (const unsigned char *)data, n);
        yaml_parser_set_encoding(&l.parser, YAML_UTF8_ENCODING);
        r = yaml_build_root(&l);
        if (r > 0 && !d->failed)
                r = yaml_fail_parser(&l, data, n);
        if (r == 0 && (!d->root || yaml_is_null(d->root))) {
                /* An empty file says nothing: a mapping without keys. */
                d->root = yaml_node_free(d->root);
                r = yaml_node_new(&l, &(yaml_mark_t){}, YAML_MAPPING, &d->root);
        }
        yaml_parser_delete(&l.parser);
        if (r < 0)
                return error_trace(r);
        *ret_document = steal_ptr(&d);
        return r;
}

int yaml_load_file(int dir_fd, const char *path, YamlDocument **ret_document) {
        _cleanup_free_ char *data = NULL;
        size_t n;
        int r;

        r = fd_read_file(dir_fd, path, YAML_SIZE_MAX, &data, &n);
        if (r == FD_E_TOO_LARGE) {
                r = yaml_document_new(path, ret_document);
                if (r)
                        return error_trace(r);
                yaml_fail(*ret_document, NULL, "the file has more than %zu bytes; expected a smaller one", YAML_SIZE_MAX);
                return YAML_E_INVALID;
        }
        if (r)
                return error_fold(r);
        return yaml_load(path, data, n, ret_document);
}

/* Remembers a key that was asked for, for the hint of yaml_end(). Best effort: without memory there is no hint. */
static void yaml_know(YamlNode *mapping, const char *key) {
        size_t n = mapping->known ? strlen(mapping->known) : 0, n_key = strlen(key);
        char *p;

        for (const char *q = mapping->known; q && (q = strstr(q, key)); q += n_key)
                if ((q == mapping->known || q[-1] == ' ') && (q[n_key] == ',' || !q[n_key]))
                        return;
        if (n + n_key + 3 > YAML_ERROR_MAX / 2)
                return;
        p = realloc(mapping->known, n + n_key + 3);
        if (!p)
                return;
        snprintf(p + n, n_key + 3, "%s%s", n ? ", " : "", key);
        mapping->known = p;
}

YamlNode *yaml_get(YamlDocument *d, YamlNode *mapping, const char *key) {
        if (!mapping)
                return NULL;
        if (mapping->kind != YAML_MAPPING) {
                yaml_fail(d, mapping, "expected a mapping (`key: value` lines)");
                return NULL;
        }
        yaml_know(mapping, key);
        for (size_t i = 0; i < mapping->n; i++)
                if (streq(mapping->keys[i]->text, key)) {
                        mapping->keys[i]->seen = mapping->items[i]->seen = true;
                        return mapping->items[i];
                }
        return NULL;
}

/* The value of a key where it is there and not null. */
static YamlNode *yaml_get_value(YamlDocument *d, YamlNode *mapping, const char *key) {
        YamlNode *node = yaml_get(d, mapping, key);

        return node && !yaml_is_null(node) ? node : NULL;
}

static YamlNode *yaml_get_scalar(YamlDocument *d, YamlNode *mapping, const char *key, const char *expected) {
        YamlNode *node = yaml_get_value(d, mapping, key);

        if (node && node->kind != YAML_SCALAR) {
                yaml_fail(d, node, "%s: expected %s, not a %s", key, expected,
                          node->kind == YAML_MAPPING ? "mapping" : "list");
                return NULL;
        }
        return node;
}

bool yaml_get_str(YamlDocument *d, YamlNode *mapping, const char *key, const char **ret_s) {
        YamlNode *node = yaml_get_scalar(d, mapping, key, "a string");

        if (!node)
                return false;
        *ret_s = node->text;
        return true;
}

bool yaml_get_u64(YamlDocument *d, YamlNode *mapping, const char *key, uint64_t min, uint64_t max, uint64_t *ret_v) {
        YamlNode *node = yaml_get_scalar(d, mapping, key, "an integer");

        if (!node)
                return false;
        if (node->quoted || !parse_u64_range(node->text, min, max, ret_v)) {
                yaml_fail(d, node, "%s: \"%s\"; expected an integer from %" PRIu64 " to %" PRIu64 "%s", key, node->text,
                          min, max, node->quoted ? ", without quotes" : "");
                return false;
        }
        return true;
}

bool yaml_get_bool(YamlDocument *d, YamlNode *mapping, const char *key, bool *ret_v) {
        YamlNode *node = yaml_get_scalar(d, mapping, key, "true or false");

        if (!node)
                return false;
        if (node->quoted || !parse_bool(node->text, ret_v)) {
                yaml_fail(d, node, "%s: \"%s\"; expected true or false%s", key, node->text,
                          node->quoted ? ", without quotes" : "");
                return false;
        }
        return true;
}

bool yaml_get_duration_us(YamlDocument *d, YamlNode *mapping, const char *key, uint64_t *ret_us) {
        YamlNode *node = yaml_get_scalar(d, mapping, key, "a duration");

        if (!node)
                return false;
        if (!parse_duration_us(node->text, ret_us)) {
                yaml_fail(d, node, "%s: \"%s\"; expected a duration such as 500ms, 10s, 5min, 2h or 1d", key, node->text);
                return false;
        }
        return true;
}

bool yaml_get_size(YamlDocument *d, YamlNode *mapping, const char *key, uint64_t *ret_bytes) {
        YamlNode *node = yaml_get_scalar(d, mapping, key, "a size");

        if (!node)
                return false;
        if (!parse_size(node->text, ret_bytes)) {
                yaml_fail(d, node, "%s: \"%s\"; expected a size such as 64K, 512M or 2G", key, node->text);
                return false;
        }
        return true;
}

static bool yaml_get_kind(YamlDocument *d, YamlNode *mapping, const char *key, YamlKind kind, YamlNode **ret_node) {
        YamlNode *node = yaml_get_value(d, mapping, key);

        if (!node)
                return false;
        if (node->kind != kind) {
                yaml_fail(d, node, "%s: expected %s", key,
                          kind == YAML_MAPPING ? "a mapping (`key: value` lines)" : "a list (`- item` lines or [a, b])");
                return false;
        }
        *ret_node = node;
        return true;
}

bool yaml_get_mapping(YamlDocument *d, YamlNode *mapping, const char *key, YamlNode **ret_node) {
        return yaml_get_kind(d, mapping, key, YAML_MAPPING, ret_node);
}

bool yaml_get_sequence(YamlDocument *d, YamlNode *mapping, const char *key, YamlNode **ret_node) {
        return yaml_get_kind(d, mapping, key, YAML_SEQUENCE, ret_node);
}

void yaml_end(YamlDocument *d, YamlNode *mapping) {
        if (!mapping)
                return;
        if (mapping->kind != YAML_MAPPING) {
                yaml_fail(d, mapping, "expected a mapping (`key: value` lines)");
                return;
        }
        for (size_t i = 0; i < mapping->n; i++)
                if (!mapping->keys[i]->seen) {
                        yaml_fail(d, mapping->keys[i], "unknown key \"%s\"%s%s", mapping->keys[i]->text,
                                  mapping->known ? "; expected one of: " : "", mapping->known ?: "");
                        return;
                }
}
