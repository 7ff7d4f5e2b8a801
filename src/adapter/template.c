#include "adapter/internal.h"
#include "base/buf.h"
#include "base/error.h"

/*
 * A template is text with ${name} in it; "$$" is a dollar sign and any other "$" is an error. It is parsed once, at
 * load, where an unknown variable can still be reported with its place. The prompt is deliberately no variable: an
 * argument and an environment are visible to other processes and in audit records, so it goes in by stdin alone.
 */

#define VARIABLE_NAME_MAX 80

static void variable_deinit(Variable *v) {
        free(v->name);
}

void template_deinit(Template *t) {
        for (size_t i = 0; i < t->n; i++) {
                variable_deinit(&t->parts[i].variable);
                free(t->parts[i].literal);
        }
        free(t->parts);
        *t = (Template){};
}

void condition_deinit(Condition *c) {
        for (size_t i = 0; i < c->n_when; i++)
                variable_deinit(&c->when[i]);
        for (size_t i = 0; i < c->n_unless; i++)
                variable_deinit(&c->unless[i]);
        free(c->when);
        free(c->unless);
        *c = (Condition){};
}

static bool setting_find(const Adapter *a, const char *name, size_t *ret_i) {
        for (size_t i = 0; i < a->n_settings; i++)
                if (streq(a->settings[i].name, name)) {
                        *ret_i = i;
                        return true;
                }
        return false;
}

static bool variable_parse(Adapter *a, YamlDocument *d, const YamlNode *at, const char *name, bool condition,
                           Variable *ret_v) {
        static const struct {
                const char *name;
                VariableKind kind;
        } plain[] = {
                { "workspace", VARIABLE_WORKSPACE },
                { "home", VARIABLE_HOME },
                { "model", VARIABLE_MODEL },
                { "install", VARIABLE_INSTALL },
        };
        Variable v = {};

        for (size_t i = 0; i < ELEMENTSOF(plain); i++)
                if (streq(name, plain[i].name)) {
                        ret_v->kind = plain[i].kind;
                        return true;
                }
        if (str_starts(name, "setting.")) {
                v.kind = VARIABLE_SETTING;
                if (!setting_find(a, name + strlen("setting."), &v.setting)) {
                        yaml_fail(d, at, "no setting '%s' is declared; add it under 'settings:' with its default",
                                  name + strlen("setting."));
                        return false;
                }
                *ret_v = v;
                return true;
        }
        if (condition && str_starts(name, "env.") && name[strlen("env.")]) {
                v.kind = VARIABLE_ENV;
                v.name = strdup(name + strlen("env."));
                if (!v.name) {
                        yaml_fail(d, at, "out of memory");
                        return false;
                }
                *ret_v = v;
                return true;
        }
        if (streq(name, "prompt"))
                yaml_fail(d, at,
                          "the prompt is no variable: it goes in by stdin only, since arguments and environments are "
                          "visible to others; use 'stdin: prompt'");
        else if (str_starts(name, "env."))
                yaml_fail(d, at, "'%s' can only be a condition ('when:', 'unless:'), not part of a text", name);
        else
                yaml_fail(d, at, "unknown variable '%s'; expected workspace, home, model, install%s or setting.NAME",
                          name, condition ? ", env.NAME" : "");
        return false;
}

static bool template_push(Template *t, YamlDocument *d, const YamlNode *at, TemplatePart part) {
        TemplatePart *parts = reallocarray(t->parts, t->n + 1, sizeof(*parts));

        if (!parts) {
                yaml_fail(d, at, "out of memory");
                variable_deinit(&part.variable);
                free(part.literal);
                return false;
        }
        t->parts = parts;
        t->parts[t->n++] = part;
        return true;
}

static bool template_push_literal(Template *t, YamlDocument *d, const YamlNode *at, const char *s, size_t n) {
        char *literal;

        if (n == 0)
                return true;
        literal = strndup(s, n);
        if (!literal) {
                yaml_fail(d, at, "out of memory");
                return false;
        }
        return template_push(t, d, at, (TemplatePart){ .literal = literal });
}

bool template_parse(Adapter *a, YamlDocument *d, const YamlNode *node, Template *ret_template) {
        Template t = {};
        const char *s, *start;

        if (node->kind != YAML_SCALAR) {
                yaml_fail(d, node, "expected a text");
                return false;
        }
        if (node->n_text > MANIFEST_TEXT_MAX) {
                yaml_fail(d, node, "the text has %zu bytes; expected at most %zu", node->n_text, MANIFEST_TEXT_MAX);
                return false;
        }
        if (memchr(node->text, 0, node->n_text)) {
                yaml_fail(d, node, "the text holds a NUL byte");
                return false;
        }
        for (s = start = node->text; *s;) {
                char name[VARIABLE_NAME_MAX];
                TemplatePart part = {};
                const char *end;

                if (*s != '$') {
                        s++;
                        continue;
                }
                if (!template_push_literal(&t, d, node, start, (size_t)(s - start)))
                        goto fail;
                if (s[1] == '$') {
                        start = s + 1; /* the second dollar sign begins the next literal */
                        s += 2;
                        continue;
                }
                end = s[1] == '{' ? strchr(s, '}') : NULL;
                if (!end || (size_t)(end - s) >= sizeof(name)) {
                        yaml_fail(d, node, "'$' begins a variable: expected '${name}'; write '$$' for a dollar sign");
                        goto fail;
                }
                memcpy(name, s + 2, (size_t)(end - s) - 2);
                name[end - s - 2] = 0;
                if (!variable_parse(a, d, node, name, false, &part.variable) || !template_push(&t, d, node, part))
                        goto fail;
                s = start = end + 1;
        }
        if (!template_push_literal(&t, d, node, start, (size_t)(s - start)))
                goto fail;
        *ret_template = t;
        return true;
fail:
        template_deinit(&t);
        return false;
}

static bool variables_parse(Adapter *a, YamlDocument *d, YamlNode *node, Variable **ret_variables, size_t *ret_n) {
        YamlNode *const one[] = { node };
        YamlNode *const *items = node->kind == YAML_SEQUENCE ? node->items : one;
        size_t n = node->kind == YAML_SEQUENCE ? node->n : 1;
        Variable *variables;

        if (node->kind == YAML_MAPPING || n == 0) {
                yaml_fail(d, node,
                          "expected the name of a variable or a list of them, such as 'model' or 'setting.base_url'");
                return false;
        }
        variables = manifest_array(d, node, n, MANIFEST_LIST_MAX, sizeof(*variables), "variables");
        if (!variables)
                return false;
        *ret_variables = variables; /* filled in place, so that condition_deinit() frees what a failure leaves */
        for (size_t i = 0; i < n; i++) {
                if (items[i]->kind != YAML_SCALAR) {
                        yaml_fail(d, items[i], "expected the name of a variable");
                        return false;
                }
                if (!variable_parse(a, d, items[i], items[i]->text, true, &variables[i]))
                        return false;
                *ret_n = i + 1;
        }
        return true;
}

bool condition_parse(Adapter *a, YamlDocument *d, YamlNode *mapping, Condition *ret_condition) {
        Condition c = {};
        YamlNode *node;

        node = yaml_get(d, mapping, "when");
        if (node && !variables_parse(a, d, node, &c.when, &c.n_when))
                goto fail;
        node = yaml_get(d, mapping, "unless");
        if (node && !variables_parse(a, d, node, &c.unless, &c.n_unless))
                goto fail;
        *ret_condition = c;
        return true;
fail:
        condition_deinit(&c);
        return false;
}

static bool assigned(char **list, const char *name) {
        size_t n = strlen(name);

        for (; list && *list; list++)
                if (strncmp(*list, name, n) == 0 && (*list)[n] == '=')
                        return true;
        return false;
}

static const char *variable_value(const Variable *v, const RenderContext *context) {
        const Adapter *a = context->adapter;
        size_t i;

        switch (v->kind) {
        case VARIABLE_WORKSPACE:
                return context->workspace ?: "";
        case VARIABLE_HOME:
                return context->home ?: "";
        case VARIABLE_MODEL:
                if (context->model && *context->model)
                        return context->model;
                return setting_find(a, "model", &i) ? a->settings[i].value : "";
        case VARIABLE_INSTALL:
                return a->install ?: "";
        case VARIABLE_SETTING:
                return a->settings[v->setting].value;
        case VARIABLE_ENV:
                return assigned(a->extra_environment, v->name) || assigned(a->credentials, v->name) ? "set" : "";
        case VARIABLE_LITERAL:
                break;
        }
        return "";
}

bool condition_holds(const Condition *c, const RenderContext *context) {
        for (size_t i = 0; i < c->n_when; i++)
                if (!*variable_value(&c->when[i], context))
                        return false;
        for (size_t i = 0; i < c->n_unless; i++)
                if (*variable_value(&c->unless[i], context))
                        return false;
        return true;
}

int template_render(const Template *t, const RenderContext *context, char **ret_s) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        int r;

        for (size_t i = 0; i < t->n; i++) {
                const TemplatePart *part = &t->parts[i];
                r = buf_append_str(&b, part->literal ?: variable_value(&part->variable, context));
                if (r)
                        return error_fold(r);
        }
        r = buf_take_str(&b, ret_s);
        return error_fold(r);
}

bool template_uses(const Template *t, VariableKind kind) {
        for (size_t i = 0; i < t->n; i++)
                if (!t->parts[i].literal && t->parts[i].variable.kind == kind)
                        return true;
        return false;
}
