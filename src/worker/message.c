#include <stdio.h>

#include "base/error.h"
#include "worker/internal.h"

/* The launcher protocol's messages (base/launch.h) as structures: reading what the launcher says, writing a SPAWN. */

/* Files that seed a home may hold settings beside credentials: nobody else's business. */
#define HOME_FILE_MODE 0600

typedef enum AttrKind {
        ATTR_IGNORED,           /* ours to send, or not known */
        ATTR_U32,
        ATTR_U64,
        ATTR_ID,
        ATTR_STRING,
        ATTR_STRINGS,           /* repeated */
        ATTR_BYTES,
        ATTR_GPUS,              /* repeated, in their order */
} AttrKind;

static const struct {
        AttrKind kind;
        size_t offset;          /* in Message */
} attrs[_LAUNCH_ATTR_N] = {
        [LAUNCH_ATTR_ATTEMPT]     = { ATTR_ID,      offsetof(Message, attempt) },
        [LAUNCH_ATTR_VERSION]     = { ATTR_U32,     offsetof(Message, version) },
        [LAUNCH_ATTR_VERSION_MIN] = { ATTR_U32,     offsetof(Message, version_min) },
        [LAUNCH_ATTR_GENERATION]  = { ATTR_ID,      offsetof(Message, generation) },
        [LAUNCH_ATTR_CAPABILITY]  = { ATTR_STRINGS, offsetof(Message, capabilities) },
        [LAUNCH_ATTR_ABSENT]      = { ATTR_STRINGS, offsetof(Message, absent) },
        [LAUNCH_ATTR_PID]         = { ATTR_U32,     offsetof(Message, pid) },
        [LAUNCH_ATTR_EXECED_AT]   = { ATTR_U64,     offsetof(Message, execed_at) },
        [LAUNCH_ATTR_STAGE]       = { ATTR_STRING,  offsetof(Message, stage) },
        [LAUNCH_ATTR_ERRNO]       = { ATTR_U32,     offsetof(Message, error) },
        [LAUNCH_ATTR_TEXT]        = { ATTR_STRING,  offsetof(Message, text) },
        [LAUNCH_ATTR_STREAM]      = { ATTR_U32,     offsetof(Message, stream) },
        [LAUNCH_ATTR_OFFSET]      = { ATTR_U64,     offsetof(Message, offset) },
        [LAUNCH_ATTR_DATA]        = { ATTR_BYTES,   offsetof(Message, data) },
        [LAUNCH_ATTR_HOW]         = { ATTR_U32,     offsetof(Message, how) },
        [LAUNCH_ATTR_VALUE]       = { ATTR_U32,     offsetof(Message, value) },
        [LAUNCH_ATTR_OOM_KILLS]   = { ATTR_U32,     offsetof(Message, oom_kills) },
        [LAUNCH_ATTR_MEMORY_PEAK] = { ATTR_U64,     offsetof(Message, memory_peak) },
        [LAUNCH_ATTR_CPU_US]      = { ATTR_U64,     offsetof(Message, cpu_us) },
        [LAUNCH_ATTR_STDOUT_END]  = { ATTR_U64,     offsetof(Message, stdout_end) },
        [LAUNCH_ATTR_STDERR_END]  = { ATTR_U64,     offsetof(Message, stderr_end) },
        [LAUNCH_ATTR_PIDS_HIT]    = { ATTR_U32,     offsetof(Message, pids_hit) },
        [LAUNCH_ATTR_KILLED]      = { ATTR_U32,     offsetof(Message, killed) },
        [LAUNCH_ATTR_GPU_INFO]    = { ATTR_GPUS,    offsetof(Message, gpus) },
        [LAUNCH_ATTR_CPUS]        = { ATTR_U32,     offsetof(Message, cpus) },
        [LAUNCH_ATTR_MEMORY]      = { ATTR_U64,     offsetof(Message, memory) },
};
_Static_assert(_LAUNCH_ATTR_N <= 64, "Message.present has a bit for each attribute");

static void strings_free(char **strings) {
        for (char **s = strings; s && *s; s++)
                free(*s);
        free(strings);
}

void message_deinit(Message *m) {
        free(m->stage);
        free(m->text);
        strings_free(m->capabilities);
        strings_free(m->absent);
        free(m->gpus);
}

static int strings_push(char ***strings, char *s) {
        size_t n = 0;
        char **p;

        while (*strings && (*strings)[n])
                n++;
        p = reallocarray(*strings, n + 2, sizeof(*p));
        if (!p) {
                free(s);
                return error_origin(-ENOMEM);
        }
        p[n] = s;
        p[n + 1] = NULL;
        *strings = p;
        return 0;
}

static int read_string(const uint8_t *data, size_t n, char **ret_s) {
        if (!launch_str(data, n, ret_s))
                return error_origin(-EBADMSG);
        return *ret_s ? 0 : error_origin(-ENOMEM);
}

static int read_gpu(Message *m, const uint8_t *data, size_t n) {
        LaunchGpu gpu, *gpus;

        /* Its bound is that of an index. */
        if (!launch_gpu(data, n, &gpu) || gpu.index != m->n_gpus)
                return error_origin(-EBADMSG);
        gpus = reallocarray(m->gpus, m->n_gpus + 1, sizeof(*gpus));
        if (!gpus)
                return error_origin(-ENOMEM);
        m->gpus = gpus;
        gpus[m->n_gpus++] = gpu;
        return 0;
}

static int message_read_attr(Message *m, LaunchAttr attr, const uint8_t *data, size_t n) {
        AttrKind kind = attr < _LAUNCH_ATTR_N ? attrs[attr].kind : ATTR_IGNORED;
        bool valid = true;
        char *s;
        void *to;
        int r;

        if (kind == ATTR_IGNORED)
                return 0;
        if (message_has(m, attr) && kind != ATTR_STRINGS && kind != ATTR_GPUS)
                return error_origin(-EBADMSG);
        to = (char *)m + attrs[attr].offset;
        switch (kind) {
        case ATTR_U32:
                valid = launch_u32(data, n, to);
                break;
        case ATTR_U64:
                valid = launch_u64(data, n, to);
                break;
        case ATTR_ID:
                valid = launch_id(data, n, to);
                break;
        case ATTR_BYTES:
                m->data = data;
                m->n_data = n;
                break;
        case ATTR_STRING:
        case ATTR_STRINGS:
                r = read_string(data, n, &s);
                if (!r && kind == ATTR_STRINGS)
                        r = strings_push(to, s);
                else if (!r)
                        *(char **)to = s;
                if (r)
                        return error_trace(r);
                break;
        case ATTR_GPUS:
                r = read_gpu(m, data, n);
                if (r)
                        return error_trace(r);
                break;
        case ATTR_IGNORED:
                break;
        }
        if (!valid)
                return error_origin(-EBADMSG);
        m->present |= UINT64_C(1) << attr;
        return 0;
}

int message_read(LaunchReader *reader, Message *m) {
        const uint8_t *data;
        LaunchAttr attr;
        size_t n;
        int r;

        *m = (Message){};
        while ((r = launch_next(reader, &attr, &data, &n)) == 0) {
                r = message_read_attr(m, attr, data, n);
                if (r)
                        return error_trace(r);
        }
        return r == LAUNCH_E_END ? 0 : error_origin(-EBADMSG);
}

/* ---- SPAWN ---- */

static int add_strings(Buf *b, LaunchAttr attr, const char *const *strings) {
        int r = 0;

        for (; !r && strings && *strings; strings++)
                r = launch_add_str(b, attr, *strings);
        return r;
}

/* u32 mode, path, NUL, content. */
static int add_home_file(Buf *b, const char *path, const char *content) {
        _cleanup_(buf_deinit) Buf file = BUF_NULL;
        const uint32_t mode = HOME_FILE_MODE;
        int r;

        r = buf_append(&file, &mode, sizeof(mode));
        if (!r)
                r = buf_append(&file, path, strlen(path) + 1);
        if (!r)
                r = buf_append_str(&file, content);
        return r ? error_fold(r) : launch_add(b, LAUNCH_ATTR_HOME_FILE, buf_data(&file), buf_size(&file));
}

static int add_spec(Buf *b, const WorkerSpec *spec) {
        int r;

        r = launch_begin(b, LAUNCH_SPAWN) ?:
            launch_add_id(b, LAUNCH_ATTR_ATTEMPT, &spec->attempt) ?:
            launch_add_id(b, LAUNCH_ATTR_TASK, &spec->task) ?:
            launch_add_str(b, LAUNCH_ATTR_AGENT, spec->agent) ?:
            add_strings(b, LAUNCH_ATTR_ARGV, spec->argv) ?:
            add_strings(b, LAUNCH_ATTR_ENV, spec->environment) ?:
            add_strings(b, LAUNCH_ATTR_ENV_CREDENTIAL, spec->credentials) ?:
            add_strings(b, LAUNCH_ATTR_READ_ONLY, spec->read_only) ?:
            add_strings(b, LAUNCH_ATTR_REQUIRE, spec->require) ?:
            launch_add_u32(b, LAUNCH_ATTR_NETWORK, spec->network);
        for (size_t i = 0; !r && spec->home_files && spec->home_files[i]; i += 2)
                r = add_home_file(b, spec->home_files[i], spec->home_files[i + 1]);
        if (!r && spec->workspace)
                r = launch_add_str(b, LAUNCH_ATTR_WORKSPACE, spec->workspace);
        if (!r && spec->seccomp)
                r = launch_add_str(b, LAUNCH_ATTR_SECCOMP, spec->seccomp);
        if (!r && spec->uid >= 0)
                r = launch_add_u32(b, LAUNCH_ATTR_UID, (uint32_t)spec->uid);
        if (!r && spec->memory_max)
                r = launch_add_u64(b, LAUNCH_ATTR_MEMORY_MAX, spec->memory_max);
        if (!r && spec->pids_max)
                r = launch_add_u32(b, LAUNCH_ATTR_PIDS_MAX, spec->pids_max);
        if (!r && spec->cpu_percent)
                r = launch_add_u32(b, LAUNCH_ATTR_CPU_PERCENT, spec->cpu_percent);
        for (size_t i = 0; !r && i < spec->n_gpus; i++)
                r = launch_add_u32(b, LAUNCH_ATTR_GPU, spec->gpus[i]);
        return r;
}

static size_t total(const char *const *strings) {
        size_t n = 0;

        for (; strings && *strings; strings++)
                n += strlen(*strings);
        return n;
}

int message_write_spawn(Buf *b, const WorkerSpec *spec, char *ret_text, size_t n_text) {
        const struct {
                const char *what;
                size_t n;
        } parts[] = {
                { "the command line", total(spec->argv) },
                { "the environment", total(spec->environment) },
                { "the list of credentials", total(spec->credentials) },
                { "the list of read-only paths", total(spec->read_only) },
                { "the files of its home", total(spec->home_files) },
                { "the workspace's path", spec->workspace ? strlen(spec->workspace) : 0 },
        };
        size_t largest = 0;
        int r;

        buf_clear(b);
        r = add_spec(b, spec);
        if (r != LAUNCH_E_FULL)
                return error_fold(r);
        buf_clear(b);
        for (size_t i = 1; i < ELEMENTSOF(parts); i++)
                if (parts[i].n > parts[largest].n)
                        largest = i;
        snprintf(ret_text, n_text, "%s (%zu bytes) does not fit into a launcher message of %zu bytes",
                 parts[largest].what, parts[largest].n, LAUNCH_MESSAGE_MAX);
        return WORKER_E_TOO_LARGE;
}
