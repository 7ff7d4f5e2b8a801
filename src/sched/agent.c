/*
 * agent: whether an agent may take a task now.
 *
 * Gate: the vendor has said that the account is rate-limited, or its quota used up, until a time: until then nothing
 * is started on it, for every start would only burn an attempt. Where the vendor names no time, the wait doubles from
 * GATE_MIN_US with each time in a row. Gates are rows in the store: a restart does not forget them. What was said is
 * read from an agent's output, which a task can write to: so no word of it is believed for longer than GATE_MAX_US;
 * then one task may try, and a success opens the gate at once.
 *
 * Breaker (Nygard, "Release It!"): BREAKER_FAILURES failures in a row of the kinds that no task is to blame for open it;
 * after a time that doubles with each opening one task may try, whose end closes or opens it. Where several principals
 * have tasks, one of them alone can't open it for all.
 */

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sched/internal.h"

#define GATE_MIN_US             (30 * USEC_PER_SEC)
#define GATE_MAX_US             (3600 * USEC_PER_SEC)
#define BREAKER_FAILURES        5
#define BREAKER_MIN_US          (30 * USEC_PER_SEC)
#define BREAKER_MAX_US          (600 * USEC_PER_SEC)

const char *sched_breaker_name(SchedBreaker breaker) {
        static const char *const names[] = { "closed", "open", "half_open" };

        return names[breaker];
}

SchedAgent *agent_find(Sched *s, const char *name) {
        for (size_t i = 0; name && i < s->n_agents; i++)
                if (!s->agents[i].gone && streq(s->agents[i].limit->name, name))
                        return &s->agents[i];
        return NULL;
}

bool agent_is_installed(SchedAgent *a) {
        /* Found once is enough; what is missing is looked for again, so that an installation needs no restart. */
        return adapter_executable(a->adapter) || adapter_probe(a->adapter) == 0;
}

SchedBlock agent_block(const SchedAgent *a) {
        SchedBlock block = a->gone ? SCHED_BLOCK_NO_AGENT : limit_block(a->limit);

        if (block != SCHED_BLOCK_NONE)
                return block;
        if (a->account->until_us > clock_realtime_us())
                return SCHED_BLOCK_GATE;
        if (a->breaker == SCHED_BREAKER_OPEN && a->breaker_until_us > clock_realtime_us())
                return SCHED_BLOCK_BREAKER;
        if (a->breaker != SCHED_BREAKER_CLOSED && a->probing)
                return SCHED_BLOCK_BREAKER;
        return SCHED_BLOCK_NONE;
}

uint64_t agent_until(const SchedAgent *a) {
        uint64_t now_us = clock_realtime_us();

        if (a->gone)
                return 0;
        if (a->account->until_us > now_us)
                return a->account->until_us;
        return a->breaker == SCHED_BREAKER_OPEN && a->breaker_until_us > now_us ? a->breaker_until_us : 0;
}

/* The timer of the gate or breaker that opens next. */
void agent_health_arm(Sched *s) {
        uint64_t next_us = UINT64_MAX;

        for (size_t i = 0; i < s->n_agents; i++) {
                uint64_t until_us = agent_until(&s->agents[i]);
                if (until_us)
                        next_us = MIN(next_us, until_us);
        }
        if (s->waits_for_tomorrow)
                next_us = MIN(next_us, budget_tomorrow_us());
        if (next_us == UINT64_MAX)
                timer_clear(&s->health_timer);
        else
                sched_arm(&s->health_timer, next_us);
}

static void breaker_set(Sched *s, SchedAgent *a, SchedBreaker breaker) {
        if (a->breaker == breaker)
                return;
        a->breaker = breaker;
        log_notice("agent '%s': the circuit breaker is %s", adapter_name(a->adapter), sched_breaker_name(breaker));
        metric_set(metric_get(s->metrics.breaker, adapter_name(a->adapter)), breaker);
}

static bool is_gate_reason(const char *reason) {
        return streq(reason, "rate_limited") || streq(reason, "quota");
}

static bool is_breaker_reason(const char *reason) {
        return streq(reason, "overloaded") || streq(reason, "network") || streq(reason, "authentication") ||
               streq(reason, "exec");
}

void agent_began(SchedAgent *a) {
        a->probing = a->breaker != SCHED_BREAKER_CLOSED;
}

static uint64_t doubling(uint64_t first, uint32_t n, uint64_t max) {
        for (; n && first < max; n--)
                first *= 2;
        return MIN(first, max);
}

static int gate_close(Sched *s, SchedAgent *a, const char *reason, uint64_t retry_after_us) {
        uint64_t wait_us = doubling(GATE_MIN_US, a->account->n_times, GATE_MAX_US);
        StoreGate row = { .account = a->account->name };
        int r;

        if (retry_after_us > GATE_MAX_US && a->breaker == SCHED_BREAKER_CLOSED)
                breaker_set(s, a, SCHED_BREAKER_HALF_OPEN);
        wait_us = retry_after_us ? MIN(retry_after_us, GATE_MAX_US) : wait_us;
        row.until_us = MAX(a->account->until_us, clock_realtime_us() + wait_us);
        row.reason = (char *)reason;
        r = store_gate_put(s->store, &row);
        r = r ?: sched_set_str(&a->account->reason, reason);
        if (r)
                return r;
        a->account->until_us = row.until_us;
        a->account->n_times++;
        log_notice("agent '%s': its account is %s: nothing starts for %llu s", adapter_name(a->adapter), reason,
                   (unsigned long long)(wait_us / USEC_PER_SEC));
        return 0;
}

static int gate_open(Sched *s, SchedAgent *a) {
        int r;

        a->account->n_times = 0;
        if (!a->account->until_us)
                return 0;
        r = store_gate_delete(s->store, a->account->name);
        if (r && r != STORE_E_NOT_FOUND)
                return r;
        a->account->until_us = 0;
        return 0;
}

static void breaker_count(Sched *s, SchedAgent *a, const SchedLimit *principal) {
        if (!a->n_failures++)
                a->failed_for = principal;
        a->failed_for_many |= a->failed_for != principal || s->limits[SCHED_PRINCIPAL].n < 2;
        if (a->breaker == SCHED_BREAKER_CLOSED && (a->n_failures < BREAKER_FAILURES || !a->failed_for_many))
                return;
        a->breaker_until_us = clock_realtime_us() + doubling(BREAKER_MIN_US, a->n_opened, BREAKER_MAX_US);
        a->n_opened++;
        breaker_set(s, a, SCHED_BREAKER_OPEN);
}

static void agent_is_well(Sched *s, SchedAgent *a) {
        a->n_failures = a->n_opened = 0;
        a->failed_for_many = false;
        breaker_set(s, a, SCHED_BREAKER_CLOSED);
}

static void agent_look_again(Sched *s, SchedAgent *a) {
        agent_health_arm(s);
        queue_unpark(s, &a->limit->parked);
        queue_unpark(s, &s->parked_any);
}

int agent_ended(Sched *s, SchedAgent *a, const SchedLimit *principal, bool succeeded, const char *reason,
                uint64_t retry_after_us) {
        int r = 0;

        a->probing = false;
        if (succeeded) {
                agent_is_well(s, a);
                r = gate_open(s, a);
        } else if (reason && is_gate_reason(reason))
                r = gate_close(s, a, reason, retry_after_us);
        else if (reason && is_breaker_reason(reason))
                breaker_count(s, a, principal);
        agent_look_again(s, a);
        return r;
}

int sched_agent_reset(Sched *s, const char *name) {
        SchedAgent *a = agent_find(s, name);
        int r;

        if (!a)
                return SCHED_E_NO_AGENT;
        r = gate_open(s, a);
        if (r)
                return r == STORE_E_FULL || r == STORE_E_FAILED ? SCHED_E_UNAVAILABLE : error_fold(r);
        agent_is_well(s, a);
        agent_look_again(s, a);
        return 0;
}

SchedAgentInfo sched_agent(const Sched *s, size_t i) {
        const SchedAgent *a = s->agents;
        uint64_t now_us = clock_realtime_us();
        SchedBreaker breaker;

        while (a->gone || i--)
                a++;
        breaker = a->breaker;
        if (breaker == SCHED_BREAKER_OPEN && a->breaker_until_us <= now_us)
                breaker = SCHED_BREAKER_HALF_OPEN;
        return (SchedAgentInfo){ .adapter = a->adapter,
                                 .n_running = a->limit->n_running,
                                 .n_live = a->limit->n_live,
                                 .paused = limit_is_paused(a->limit),
                                 .breaker = breaker,
                                 .n_failures = a->n_failures,
                                 .breaker_until_us = breaker == SCHED_BREAKER_OPEN ? a->breaker_until_us : 0,
                                 .gate_until_us = a->account->until_us > now_us ? a->account->until_us : 0,
                                 .gate_reason = a->account->until_us > now_us ? a->account->reason : NULL };
}

size_t sched_n_agents(const Sched *s) {
        return (size_t)__builtin_popcountll(s->agents_live);
}
