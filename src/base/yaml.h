#pragma once

/*
 * yaml: libyaml documents as a tree whose nodes know their line and column, so an error about configuration,
 * a manifest or a policy says file:line:column, what was expected, and a hint. Aliases are refused, depth, size and
 * node count bounded, duplicate keys refused.
 */

#include "base/macro.h"

#define YAML_SIZE_MAX   MIB(1)
#define YAML_DEPTH_MAX  32
#define YAML_NODES_MAX  65536
#define YAML_KEYS_MAX   1024            /* of one mapping: the search for duplicates is quadratic in it */
#define YAML_ERROR_MAX  512

typedef struct YamlDocument YamlDocument;
typedef struct YamlNode YamlNode;

typedef enum YamlKind {
        YAML_SCALAR,
        YAML_SEQUENCE,
        YAML_MAPPING,
} YamlKind;

struct YamlNode {
        YamlKind kind;
        unsigned line, column;          /* from 1 */
        /* scalar */
        char *text;
        size_t n_text;
        bool quoted;
        /* sequence: items; mapping: keys[i] → items[i] */
        YamlNode **keys;
        YamlNode **items;
        size_t n;
        bool seen;                      /* asked for by a getter: what is left over is an unknown key */
        char *known;                    /* mapping: the keys asked for so far, for the hint of yaml_end() */
};

struct YamlDocument {
        char *name;                     /* file name for messages */
        YamlNode *root;
        char error[YAML_ERROR_MAX];     /* "NAME:LINE:COLUMN: what; expected …; hint" of the first error */
        bool failed;
};

enum {
        _YAML_E_SUCCESS,
        YAML_E_INVALID,                 /* document->error says why; free the document all the same */
};

/*
 * Loads a document (a file's text; name is for messages), the caller frees it. An empty one is a mapping without keys.
 * YAML_E_INVALID with *ret_document set, or a negative errno (yaml_load_file: of the open, -ENOENT for instance).
 */
int yaml_load(const char *name, const char *data, size_t n, YamlDocument **ret_document) _must_check_;
int yaml_load_file(int dir_fd, const char *path, YamlDocument **ret_document) _must_check_;
/* Under another symbol: libyaml.so exports and calls a yaml_free() of its own, which ours would take the place of. */
YamlDocument *yaml_free(YamlDocument *document) __asm__("agent_router_yaml_free");
DEFINE_CLEANUP(YamlDocument, yaml_free);

/* Records the first error at a node. */
void yaml_fail(YamlDocument *d, const YamlNode *at, const char *format, ...) _printf_(3, 4);
/* The value of a key, marked as seen; NULL where absent. A NULL mapping has no keys. */
YamlNode *yaml_get(YamlDocument *d, YamlNode *mapping, const char *key);
/*
 * Typed getters: true where present and valid; a wrong type or range is recorded by yaml_fail(). null counts as absent.
 */
bool yaml_get_str(YamlDocument *d, YamlNode *mapping, const char *key, const char **ret_s);
bool yaml_get_u64(YamlDocument *d, YamlNode *mapping, const char *key, uint64_t min, uint64_t max, uint64_t *ret_v);
bool yaml_get_bool(YamlDocument *d, YamlNode *mapping, const char *key, bool *ret_v);
bool yaml_get_duration_us(YamlDocument *d, YamlNode *mapping, const char *key, uint64_t *ret_us);
bool yaml_get_size(YamlDocument *d, YamlNode *mapping, const char *key, uint64_t *ret_bytes);
/* A mapping or sequence; wrong kinds are recorded. */
bool yaml_get_mapping(YamlDocument *d, YamlNode *mapping, const char *key, YamlNode **ret_node);
bool yaml_get_sequence(YamlDocument *d, YamlNode *mapping, const char *key, YamlNode **ret_node);
/* Every key of the mapping must have been asked for: the first that was not is an error. */
void yaml_end(YamlDocument *d, YamlNode *mapping);
