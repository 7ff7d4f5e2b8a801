#include "base/error.h"
#include "base/launch.h"
#include "base/parse.h"

typedef struct LaunchAttrHeader {
        uint16_t type;
        uint16_t reserved;
        uint32_t length;
} LaunchAttrHeader;

_Static_assert(sizeof(LaunchHeader) == 12, "a message's header has no padding");
_Static_assert(sizeof(LaunchAttrHeader) == 8, "an attribute's header has no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the protocol is little endian, as are x86-64 and arm64");
_Static_assert(sizeof(LaunchHeader) + 8 * sizeof(LaunchAttrHeader) + LAUNCH_OUTPUT_MAX < LAUNCH_MESSAGE_MAX,
               "one OUTPUT fits one message");

static size_t launch_padding(size_t n) {
        return -n & 3;
}

int launch_begin(Buf *b, LaunchType type) {
        LaunchHeader header = { .magic = LAUNCH_MAGIC, .type = (uint16_t)type, .length = sizeof(header) };
        int r;

        if (buf_size(b) != 0)
                return error_origin(-EINVAL);
        r = buf_append(b, &header, sizeof(header));
        return r == BUF_E_FULL ? LAUNCH_E_FULL : error_fold(r);
}

int launch_add(Buf *b, LaunchAttr attr, const void *data, size_t n) {
        LaunchAttrHeader header = { .type = (uint16_t)attr, .length = (uint32_t)n };
        size_t padding = launch_padding(n);
        uint32_t length;
        uint8_t *p;
        int r;

        if (n > LAUNCH_MESSAGE_MAX || buf_size(b) + sizeof(header) + n + padding > LAUNCH_MESSAGE_MAX)
                return LAUNCH_E_FULL;
        r = buf_reserve(b, sizeof(header) + n + padding, &p);
        if (r)
                return r == BUF_E_FULL ? LAUNCH_E_FULL : error_fold(r);
        memcpy(p, &header, sizeof(header));
        if (n)
                memcpy(p + sizeof(header), data, n);
        memset(p + sizeof(header) + n, 0, padding);
        buf_added(b, sizeof(header) + n + padding);
        length = (uint32_t)buf_size(b);
        memcpy(buf_data(b) + offsetof(LaunchHeader, length), &length, sizeof(length));
        return 0;
}

int launch_add_u32(Buf *b, LaunchAttr attr, uint32_t v) {
        return launch_add(b, attr, &v, sizeof(v));
}

int launch_add_u64(Buf *b, LaunchAttr attr, uint64_t v) {
        return launch_add(b, attr, &v, sizeof(v));
}

int launch_add_str(Buf *b, LaunchAttr attr, const char *s) {
        return launch_add(b, attr, s, strlen(s));
}

int launch_add_id(Buf *b, LaunchAttr attr, const Id *id) {
        return launch_add(b, attr, id->bytes, sizeof(id->bytes));
}

int launch_add_gpu(Buf *b, const LaunchGpu *gpu) {
        uint8_t data[16 + LAUNCH_GPU_NAME_SIZE + LAUNCH_GPU_UUID_SIZE];
        size_t n_name = strnlen(gpu->name, LAUNCH_GPU_NAME_SIZE - 1);
        size_t n_uuid = strnlen(gpu->uuid, LAUNCH_GPU_UUID_SIZE - 1);

        memcpy(data, &gpu->index, sizeof(gpu->index));
        memcpy(data + 4, &gpu->shares, sizeof(gpu->shares));
        memcpy(data + 8, &gpu->memory, sizeof(gpu->memory));
        memcpy(data + 16, gpu->name, n_name);
        data[16 + n_name] = 0;
        memcpy(data + 16 + n_name + 1, gpu->uuid, n_uuid);
        return launch_add(b, LAUNCH_ATTR_GPU_INFO, data, 16 + n_name + 1 + n_uuid);
}

int launch_open(LaunchReader *reader, const void *data, size_t n) {
        LaunchHeader header;

        if (n < sizeof(header) || n > LAUNCH_MESSAGE_MAX)
                return LAUNCH_E_MALFORMED;
        memcpy(&header, data, sizeof(header));
        if (header.magic != LAUNCH_MAGIC || header.type == 0 || header.length != n)
                return LAUNCH_E_MALFORMED;
        *reader = (LaunchReader){ .data = data, .n = n, .at = sizeof(header), .type = (LaunchType)header.type };
        return 0;
}

int launch_next(LaunchReader *reader, LaunchAttr *ret_attr, const uint8_t **ret_data, size_t *ret_n) {
        size_t left = reader->n - reader->at;
        LaunchAttrHeader header;

        if (left == 0)
                return LAUNCH_E_END;
        if (left < sizeof(header))
                return LAUNCH_E_MALFORMED;
        memcpy(&header, reader->data + reader->at, sizeof(header));
        left -= sizeof(header);
        if (header.type == 0 || header.length > left || launch_padding(header.length) > left - header.length)
                return LAUNCH_E_MALFORMED;
        *ret_attr = (LaunchAttr)header.type;
        *ret_data = reader->data + reader->at + sizeof(header);
        *ret_n = header.length;
        reader->at += sizeof(header) + header.length + launch_padding(header.length);
        return 0;
}

bool launch_u32(const uint8_t *data, size_t n, uint32_t *ret_v) {
        if (n != sizeof(*ret_v))
                return false;
        memcpy(ret_v, data, n);
        return true;
}

bool launch_u64(const uint8_t *data, size_t n, uint64_t *ret_v) {
        if (n != sizeof(*ret_v))
                return false;
        memcpy(ret_v, data, n);
        return true;
}

bool launch_id(const uint8_t *data, size_t n, Id *ret_id) {
        if (n != sizeof(ret_id->bytes))
                return false;
        memcpy(ret_id->bytes, data, n);
        return true;
}

bool launch_str(const uint8_t *data, size_t n, char **ret_s) {
        char *s;

        if (n && memchr(data, 0, n))
                return false;
        s = malloc(n + 1);
        if (s) {
                memcpy(s, data, n);
                s[n] = 0;
        }
        *ret_s = s;
        return true;
}

bool launch_gpu_name_is_valid(const char *name) {
        size_t n = strnlen(name, LAUNCH_GPU_NAME_SIZE);

        if (n == 0 || n == LAUNCH_GPU_NAME_SIZE || !utf8_is_valid(name, n))
                return false;
        for (size_t i = 0; i < n; i++)
                if ((uint8_t)name[i] < ' ' || name[i] == 0x7f)
                        return false;
        return true;
}

bool launch_gpu(const uint8_t *data, size_t n, LaunchGpu *ret_gpu) {
        LaunchGpu gpu = {};
        const uint8_t *nul;
        size_t n_name, n_uuid;

        if (n < 17)
                return false;
        memcpy(&gpu.index, data, sizeof(gpu.index));
        memcpy(&gpu.shares, data + 4, sizeof(gpu.shares));
        memcpy(&gpu.memory, data + 8, sizeof(gpu.memory));
        nul = memchr(data + 16, 0, n - 16);
        if (!nul)
                return false;
        n_name = (size_t)(nul - data) - 16;
        n_uuid = n - 16 - n_name - 1;
        if (n_name >= sizeof(gpu.name) || n_uuid >= sizeof(gpu.uuid) || memchr(nul + 1, 0, n_uuid))
                return false;
        memcpy(gpu.name, data + 16, n_name);
        memcpy(gpu.uuid, nul + 1, n_uuid);
        if (gpu.index >= LAUNCH_GPUS_MAX || gpu.shares == 0 || gpu.shares > LAUNCH_GPU_SHARES_MAX)
                return false;
        if (!launch_gpu_name_is_valid(gpu.name) || (n_uuid && !parse_name(gpu.uuid, sizeof(gpu.uuid) - 1)))
                return false;
        *ret_gpu = gpu;
        return true;
}
