#include <sys/random.h>

#include "base/error.h"
#include "base/map.h"

#define MAP_BUCKETS_MIN 16

static uint64_t rotate(uint64_t x, unsigned b) {
        return x << b | x >> (64 - b);
}

static uint64_t load_le64(const uint8_t *p, size_t n) {
        uint64_t v = 0;

        for (size_t i = 0; i < n; i++)
                v |= (uint64_t)p[i] << (8 * i);
        return v;
}

static void sip_round(uint64_t v[4]) {
        v[0] += v[1]; v[1] = rotate(v[1], 13); v[1] ^= v[0]; v[0] = rotate(v[0], 32);
        v[2] += v[3]; v[3] = rotate(v[3], 16); v[3] ^= v[2];
        v[0] += v[3]; v[3] = rotate(v[3], 21); v[3] ^= v[0];
        v[2] += v[1]; v[1] = rotate(v[1], 17); v[1] ^= v[2]; v[2] = rotate(v[2], 32);
}

/* SipHash-2-4 (Aumasson and Bernstein, 2012). */
uint64_t map_siphash(const uint8_t key[static 16], const void *data, size_t n) {
        const uint64_t k0 = load_le64(key, 8), k1 = load_le64(key + 8, 8);
        uint64_t v[4] = {
                k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d,
                k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573,
        };
        const uint8_t *p = data;
        uint64_t m;

        for (size_t left = n; ; left -= 8, p += 8) {
                m = left >= 8 ? load_le64(p, 8) : load_le64(p, left) | (uint64_t)n << 56;
                v[3] ^= m;
                sip_round(v);
                sip_round(v);
                v[0] ^= m;
                if (left < 8)
                        break;
        }
        v[2] ^= 0xff;
        for (unsigned i = 0; i < 4; i++)
                sip_round(v);
        return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The key is made before the first node is hashed, and never changes. */
static int map_hash(const void *data, size_t n, uint64_t *ret_hash) {
        static uint8_t key[16];
        static bool have_key;

        if (!have_key) {
                if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
                        return error_origin(-errno);
                have_key = true;
        }
        *ret_hash = map_siphash(key, data, n);
        return 0;
}

void map_deinit(Map *m) {
        free(m->buckets);
        *m = (Map)MAP_NULL;
}

static int map_grow(Map *m) {
        size_t n_buckets = m->n_buckets ? m->n_buckets * 2 : MAP_BUCKETS_MIN;
        MapNode **buckets = calloc(n_buckets, sizeof(*buckets));

        if (!buckets)
                return error_origin(-ENOMEM);
        map_for_each(node, m) {
                MapNode **bucket = buckets + (node->hash & (n_buckets - 1));
                node->next = *bucket;
                *bucket = node;
        }
        free(m->buckets);
        m->buckets = buckets;
        m->n_buckets = n_buckets;
        return 0;
}

static MapNode *map_find_hashed(const Map *m, uint64_t hash, const void *key, size_t n_key) {
        for (MapNode *node = m->buckets[hash & (m->n_buckets - 1)]; node; node = node->next)
                if (node->hash == hash && node->n_key == n_key && (n_key == 0 || memcmp(node->key, key, n_key) == 0))
                        return node;
        return NULL;
}

int map_insert(Map *m, MapNode *node, const void *key, size_t n_key) {
        MapNode **bucket;
        uint64_t hash;
        int r;

        r = map_hash(key, n_key, &hash);
        if (r)
                return error_trace(r);
        if (m->n && map_find_hashed(m, hash, key, n_key))
                return error_origin(-EEXIST);
        if (m->n >= m->n_buckets) {
                r = map_grow(m);
                if (r)
                        return error_trace(r);
        }
        bucket = m->buckets + (hash & (m->n_buckets - 1));
        *node = (MapNode){ .next = *bucket, .hash = hash, .key = key, .n_key = n_key, .linked = true };
        *bucket = node;
        m->n++;
        return 0;
}

void map_remove(Map *m, MapNode *node) {
        MapNode **p;

        if (!node->linked)
                return;
        for (p = m->buckets + (node->hash & (m->n_buckets - 1)); *p != node; p = &(*p)->next)
                ;
        *p = node->next;
        *node = (MapNode){};
        m->n--;
}

MapNode *map_find(const Map *m, const void *key, size_t n_key) {
        uint64_t hash;

        if (m->n == 0 || map_hash(key, n_key, &hash) < 0)
                return NULL;
        return map_find_hashed(m, hash, key, n_key);
}
