#include "base/error.h"
#include "base/idmap.h"

#define IDMAP_BUCKETS_MIN 16

/* The last eight bytes are random but for the two bits of the variant, which lie at the far end. */
static IdNode **idmap_bucket(IdNode **buckets, size_t n_buckets, const Id *id) {
        uint64_t v;

        memcpy(&v, id->bytes + 8, sizeof(v));
        return buckets + ((v ^ v >> 32) & (n_buckets - 1));
}

void idmap_deinit(IdMap *m) {
        free(m->buckets);
        *m = (IdMap)IDMAP_NULL;
}

static int idmap_grow(IdMap *m) {
        size_t n_buckets = m->n_buckets ? m->n_buckets * 2 : IDMAP_BUCKETS_MIN;
        IdNode **buckets = calloc(n_buckets, sizeof(*buckets));

        if (!buckets)
                return error_origin(-ENOMEM);
        idmap_for_each(node, m) {
                IdNode **bucket = idmap_bucket(buckets, n_buckets, &node->id);
                node->next = *bucket;
                *bucket = node;
        }
        free(m->buckets);
        m->buckets = buckets;
        m->n_buckets = n_buckets;
        return 0;
}

int idmap_insert(IdMap *m, IdNode *node) {
        IdNode **bucket;

        if (idmap_find(m, &node->id))
                return error_origin(-EEXIST);
        if (m->n >= m->n_buckets) {
                int r = idmap_grow(m);
                if (r)
                        return error_trace(r);
        }
        bucket = idmap_bucket(m->buckets, m->n_buckets, &node->id);
        node->next = *bucket;
        *bucket = node;
        m->n++;
        return 0;
}

void idmap_remove(IdMap *m, IdNode *node) {
        IdNode **p;

        for (p = idmap_bucket(m->buckets, m->n_buckets, &node->id); *p != node; p = &(*p)->next)
                ;
        *p = node->next;
        node->next = NULL;
        m->n--;
}

IdNode *idmap_find(const IdMap *m, const Id *id) {
        if (m->n)
                for (IdNode *node = *idmap_bucket(m->buckets, m->n_buckets, id); node; node = node->next)
                        if (id_equal(&node->id, id))
                                return node;
        return NULL;
}
