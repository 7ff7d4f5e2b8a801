/* batch-order: a batch's tasks are submitted in an order in which each finds those that it comes after. */

#include <stdio.h>

#include "api/batch.h"
#include "base/error.h"

#define CYCLE_NAMES_MAX 16

int batch_order_init(BatchOrder *o, size_t n_max) {
        *o = (BatchOrder){
                .ends = calloc(n_max, sizeof(*o->ends)),
                .order = calloc(n_max, sizeof(*o->order)),
        };
        return o->ends && o->order ? 0 : error_origin(-ENOMEM);
}

void batch_order_deinit(BatchOrder *o) {
        free(o->edges);
        free(o->ends);
        free(o->order);
        *o = (BatchOrder){};
}

int batch_order_add(BatchOrder *o, const Submit *s) {
        for (size_t i = 0; i < s->n_after; i++) {
                if (!s->after[i].in_batch)
                        continue;
                if (o->n_edges == o->capacity) {
                        size_t capacity = MAX(o->capacity * 2, (size_t)64);
                        uint32_t *edges = reallocarray(o->edges, capacity, sizeof(*edges));
                        if (!edges)
                                return error_origin(-ENOMEM);
                        o->edges = edges;
                        o->capacity = capacity;
                }
                o->edges[o->n_edges++] = s->after[i].index;
        }
        o->ends[o->n++] = (uint32_t)o->n_edges;
        return 0;
}

static size_t edges_begin(const BatchOrder *o, uint32_t task) {
        return task ? o->ends[task - 1] : 0;
}

/* Of a task that is not placed: one before it that is not placed either. There is one. */
static uint32_t unplaced_before(const BatchOrder *o, const bool *placed, uint32_t task) {
        for (size_t i = edges_begin(o, task); i < o->ends[task]; i++)
                if (!placed[o->edges[i]])
                        return o->edges[i];
        return task;
}

/* Walks back from a task that could not be placed until one comes again. */
static int tell_cycle(const BatchOrder *o, const bool *placed, uint32_t *ret_first,
                      char ret_names[static SCHED_DETAIL_MAX]) {
        _cleanup_free_ bool *seen = calloc(o->n, sizeof(*seen));
        uint32_t task = 0, first;
        size_t n = 0, k = 0;

        if (!seen)
                return error_origin(-ENOMEM);
        while (placed[task])
                task++;
        for (; !seen[task]; task = unplaced_before(o, placed, task))
                seen[task] = true;
        /* `task` is in it; named from its lowest, so that it is the same one however it is found. */
        first = task;
        for (uint32_t t = unplaced_before(o, placed, task); t != task; t = unplaced_before(o, placed, t))
                first = MIN(first, t);
        task = first;
        do {
                k += (size_t)snprintf(ret_names + k, SCHED_DETAIL_MAX - k, "#%u after ", task);
                task = unplaced_before(o, placed, task);
        } while (task != first && ++n < CYCLE_NAMES_MAX);
        snprintf(ret_names + k, SCHED_DETAIL_MAX - k, "%s#%u", task == first ? "" : "… after ", first);
        *ret_first = first;
        return BATCH_E_CYCLE;
}

int batch_order_sort(BatchOrder *o, uint32_t *ret_first, char ret_names[static SCHED_DETAIL_MAX]) {
        _cleanup_free_ uint32_t *waits = calloc(o->n, sizeof(*waits)), *begins = calloc(o->n + 1, sizeof(*begins));
        _cleanup_free_ uint32_t *dependants = calloc(MAX(o->n_edges, (size_t)1), sizeof(*dependants));
        _cleanup_free_ bool *placed = calloc(o->n, sizeof(*placed));
        size_t n = 0;

        if (!waits || !begins || !dependants || !placed)
                return error_origin(-ENOMEM);
        /* The edges the other way round: who waits for a task, from begins[task] on. */
        for (size_t i = 0; i < o->n_edges; i++)
                begins[o->edges[i] + 1]++;
        for (size_t t = 0; t < o->n; t++)
                begins[t + 1] += begins[t];
        for (uint32_t t = 0; t < o->n; t++)
                for (size_t i = edges_begin(o, t); i < o->ends[t]; i++)
                        dependants[begins[o->edges[i]] + waits[o->edges[i]]++] = t;
        for (uint32_t t = 0; t < o->n; t++) {
                waits[t] = o->ends[t] - (uint32_t)edges_begin(o, t);
                if (waits[t] == 0)
                        o->order[n++] = t;
        }
        for (size_t i = 0; i < n; i++) {
                uint32_t t = o->order[i];
                placed[t] = true;
                for (size_t k = begins[t]; k < begins[t + 1]; k++)
                        if (--waits[dependants[k]] == 0)
                                o->order[n++] = dependants[k];
        }
        return n == o->n ? 0 : tell_cycle(o, placed, ret_first, ret_names);
}
