/*
 * resource: GPUs, CPUs and memory that tasks reserve while they run. What the machine has is told by the launcher (GPUs
 * found there or declared), CPUs and memory may be bounded by the configuration; what no task asks for is not counted.
 *
 * A task takes one share of each of its GPUs. Of the GPUs with room the least used are taken, so that tasks spread.
 *
 * Gangs and backfill. A task that asks for much would wait for ever behind small ones that take each free bit at once.
 * So the first flow for which no room is found is remembered; once it has waited RESOURCE_BACKFILL_US, nothing else
 * that asks for something it lacks is started before it. It then waits no longer than what runs already.
 */

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sched/internal.h"

#define RESOURCE_BACKFILL_US    (30 * USEC_PER_SEC)
#define RESOURCE_MEMORY_MIN     MIB(64)         /* less starts no agent */

static bool asks(const SchedFlowKey *key) {
        return key->gpus || key->cpus_milli || key->memory;
}

/* ---- the machine ---- */

size_t resource_gpus(const char *text, uint32_t ret_gpus[static LAUNCH_GPUS_MAX]) {
        size_t n = 0;

        for (const char *p = text; p && *p >= '0' && *p <= '9' && n < LAUNCH_GPUS_MAX; p += *p == ' ') {
                ret_gpus[n] = 0;
                for (; *p >= '0' && *p <= '9'; p++)
                        ret_gpus[n] = ret_gpus[n] * 10 + (uint32_t)(*p - '0');
                n++;
        }
        return n;
}

static void gpus_add(SchedResources *m, const char *text, int shares) {
        uint32_t gpus[LAUNCH_GPUS_MAX];
        size_t n = resource_gpus(text, gpus);

        for (size_t i = 0; i < n; i++)
                if (gpus[i] < m->n_gpus)
                        m->gpus_used[gpus[i]] += (uint32_t)shares;
}

/* The configuration's word goes before the machine's. */
void resource_configure(Sched *s) {
        SchedResources *m = &s->resources;

        if (!s->client)
                return;
        m->cpus_milli = resource_cpus(s->config.cpus_milli ?: launcher_client_cpus(s->client) * 1000);
        m->memory = resource_memory(s->config.memory ?: launcher_client_memory(s->client));
}

int resource_discover(Sched *s) {
        SchedResources *m = &s->resources;
        _cleanup_free_ LaunchGpu *gpus = NULL;
        _cleanup_free_ uint32_t *used = NULL;
        const LaunchGpu *told;
        size_t n;

        told = launcher_client_gpus(s->client, &n);
        gpus = calloc(MAX(n, (size_t)1), sizeof(*gpus));
        used = calloc(MAX(n, (size_t)1), sizeof(*used));
        if (!gpus || !used)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < n; i++)
                gpus[i] = told[i];
        free(m->gpus);
        free(m->gpus_used);
        m->gpus = steal_ptr(&gpus);
        m->gpus_used = steal_ptr(&used);
        m->n_gpus = n;
        resource_configure(s);
        m->known = m->cpus_milli > 0;
        /* What runs holds them still, of a router before this one too. */
        list_for_each_safe(i, &s->runs)
                gpus_add(m, run_held_gpus(run_from_link(i)), 1);
        queue_unpark(s, &s->parked_resources);
        return 0;
}

void resource_deinit(Sched *s) {
        free(s->resources.gpus);
        free(s->resources.gpus_used);
}

int resource_check(const Sched *s, const StoreTask *task, char ret_detail[static SCHED_DETAIL_MAX]) {
        const SchedResources *m = &s->resources;

        if (task->memory && task->memory < RESOURCE_MEMORY_MIN) {
                snprintf(ret_detail, SCHED_DETAIL_MAX, "resources.memory: expected at least %zu bytes",
                         RESOURCE_MEMORY_MIN);
                return SCHED_E_INVALID;
        }
        /* Nobody has told yet: the task waits, and says so. */
        if (!m->known)
                return 0;
        if (task->gpus > m->n_gpus)
                snprintf(ret_detail, SCHED_DETAIL_MAX, "resources.gpus: this machine has %zu", m->n_gpus);
        else if (task->cpus_milli > m->cpus_milli)
                snprintf(ret_detail, SCHED_DETAIL_MAX, "resources.cpus: tasks may take %g of this machine's",
                         m->cpus_milli / 1000.0);
        else if (task->memory > m->memory)
                snprintf(ret_detail, SCHED_DETAIL_MAX, "resources.memory: tasks may take %" PRIu64 " bytes of this machine's",
                         m->memory);
        else
                return 0;
        return SCHED_E_UNSUPPORTED;
}

/* ---- room ---- */

static bool gpu_is_free(const SchedResources *m, size_t i) {
        return m->gpus_used[i] < m->gpus[i].shares;
}

static uint32_t gpus_free(const SchedResources *m) {
        uint32_t n = 0;

        for (size_t i = 0; i < m->n_gpus; i++)
                n += gpu_is_free(m, i);
        return n;
}

static bool has_room(const SchedResources *m, const SchedFlowKey *key) {
        return (!key->gpus || gpus_free(m) >= key->gpus) &&
               (!key->cpus_milli || m->cpus_milli_used + key->cpus_milli <= m->cpus_milli) &&
               (!key->memory || m->memory_used + key->memory <= m->memory);
}

/* Both ask for something that the machine is short of for `first`. */
static bool competes(const SchedResources *m, const SchedFlowKey *key) {
        const SchedFlowKey *first = &m->first->key;

        return (key->gpus && first->gpus && gpus_free(m) < first->gpus) ||
               (key->cpus_milli && first->cpus_milli && m->cpus_milli_used + first->cpus_milli > m->cpus_milli) ||
               (key->memory && first->memory && m->memory_used + first->memory > m->memory);
}

SchedBlock resource_block(SchedFlow *f) {
        SchedResources *m = &f->sched->resources;
        uint64_t now_us = clock_monotonic_us();

        if (!asks(&f->key))
                return SCHED_BLOCK_NONE;
        if (!has_room(m, &f->key)) {
                /* No room is kept for what the machine has become too small for. */
                if (!m->first && f->key.gpus <= m->n_gpus && f->key.cpus_milli <= m->cpus_milli &&
                    f->key.memory <= m->memory) {
                        m->first = f;
                        m->first_since_us = now_us;
                }
                return SCHED_BLOCK_RESOURCES;
        }
        if (m->first == f)
                m->first = NULL;
        return m->first && now_us - m->first_since_us >= RESOURCE_BACKFILL_US && competes(m, &f->key)
               ? SCHED_BLOCK_RESOURCES : SCHED_BLOCK_NONE;
}

void resource_forget(SchedFlow *f) {
        SchedResources *m = &f->sched->resources;

        if (m->first != f)
                return;
        m->first = NULL;
        queue_unpark(f->sched, &f->sched->parked_resources);
}

/* ---- taking ---- */

int resource_take(Sched *s, const SchedFlowKey *key, char **ret_gpus) {
        _cleanup_(buf_deinit) Buf text = BUF_NULL;
        uint64_t taken = 0;
        char *gpus = NULL;
        int r = 0;

        for (uint32_t n = 0; n < key->gpus && !r; n++) {
                size_t best = s->resources.n_gpus;
                for (size_t i = 0; i < s->resources.n_gpus; i++)
                        if (!(taken & UINT64_C(1) << i) && gpu_is_free(&s->resources, i) &&
                            (best == s->resources.n_gpus || s->resources.gpus_used[i] < s->resources.gpus_used[best]))
                                best = i;
                if (best == s->resources.n_gpus)
                        return error_origin(-EBUSY);
                taken |= UINT64_C(1) << best;
                r = buf_printf(&text, "%s%zu", n ? " " : "", best);
        }
        if (!r && key->gpus)
                r = buf_take_str(&text, &gpus);
        if (r)
                return error_fold(r);
        resource_retake(s, key, gpus);
        *ret_gpus = gpus;
        return 0;
}

void resource_retake(Sched *s, const SchedFlowKey *key, const char *gpus) {
        gpus_add(&s->resources, gpus, 1);
        s->resources.cpus_milli_used += key->cpus_milli;
        s->resources.memory_used += key->memory;
}

void resource_give(Sched *s, const SchedFlowKey *key, const char *gpus) {
        gpus_add(&s->resources, gpus, -1);
        s->resources.cpus_milli_used -= key->cpus_milli;
        s->resources.memory_used -= key->memory;
        if (asks(key))
                queue_unpark(s, &s->parked_resources);
}
