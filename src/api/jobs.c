/*
 * jobs: requests that are more than a tick's work: a batch that is made, many tasks that are cancelled or retried. They
 * take turns inside one budget a tick, so that what they cost everybody else is the same however many there are; a
 * caller has a few at once, and all of them together are few enough for their list to be searched. One that ends within
 * its first turn, as a small batch does, never waits for the others.
 */

#include "api/internal.h"
#include "base/error.h"

#define JOBS_MAX                64
#define JOBS_RESERVE            8                       /* beyond that, for administrators */
#define JOBS_PER_PRINCIPAL_MAX  4
#define JOBS_TICK_US            (5 * USEC_PER_MSEC)     /* of all turns in one tick */
#define JOBS_TICK_TASKS         500u                    /* and at most so many tasks */
#define JOBS_TURN_US            USEC_PER_MSEC
#define JOBS_TURN_TASKS         100u
#define JOBS_RETRY_S            1

static TickBudget *jobs_budget(Api *api) {
        tick_budget_renew(&api->jobs_budget, api->reactor);
        return &api->jobs_budget;
}

static void on_jobs(Timer *timer);

static void jobs_schedule(Api *api) {
        uint64_t next_us = reactor_now_us(api->reactor) + 1, at_us = UINT64_MAX;

        list_for_each_safe(i, &api->sliced)
                at_us = MIN(at_us, MAX(container_of(i, Request, sliced)->paused_until_us, next_us));
        if (at_us == UINT64_MAX)
                timer_clear(&api->jobs_timer);
        else
                timer_set(&api->jobs_timer, at_us);
}

static void job_turn(Request *q) {
        TickBudget *budget = jobs_budget(q->api);
        uint64_t begin_us = clock_monotonic_us();
        unsigned left = JOBS_TICK_TASKS - MIN(JOBS_TICK_TASKS, budget->spent);
        Slice slice = { .until_us = begin_us + JOBS_TURN_US, .left = MAX(MIN(left, JOBS_TURN_TASKS), 1u) };
        unsigned given = slice.left;
        int r;

        list_unlink(&q->sliced);
        list_link_tail(&q->api->sliced, &q->sliced);
        r = q->slice(q, &slice);
        if (r)
                request_failed(q, r);
        budget->spent += MAX(given - slice.left, 1u);
        budget->spent_us += clock_monotonic_us() - begin_us;
}

static Request *jobs_next(Api *api) {
        list_for_each_safe(i, &api->sliced) {
                Request *q = container_of(i, Request, sliced);
                if (q->paused_until_us <= reactor_now_us(api->reactor))
                        return q;
        }
        return NULL;
}

static void on_jobs(Timer *timer) {
        Api *api = container_of(timer, Api, jobs_timer);
        const TickBudget *budget = jobs_budget(api);
        Request *q;

        while (budget->spent < JOBS_TICK_TASKS && budget->spent_us < JOBS_TICK_US && (q = jobs_next(api)))
                job_turn(q);
        jobs_schedule(api);
}

void jobs_init(Api *api) {
        list_init(&api->sliced);
        timer_init(&api->jobs_timer, api->reactor, on_jobs);
}

/* False: a problem was sent. */
static bool jobs_has_room(Request *q) {
        size_t n = 0, n_own = 0;

        list_for_each_safe(i, &q->api->sliced) {
                n++;
                n_own += streq(container_of(i, Request, sliced)->principal.name, q->principal.name);
        }
        q->retry_after_s = JOBS_RETRY_S;
        if (n_own >= JOBS_PER_PRINCIPAL_MAX)
                request_problem(q, 429, NULL, "%d long requests of this caller (batches that are made, many tasks that are "
                                "cancelled or retried) are under way; ask again when one is answered", JOBS_PER_PRINCIPAL_MAX);
        else if (n >= JOBS_MAX + (q->principal.role == ROLE_ADMIN ? JOBS_RESERVE : 0))
                request_problem(q, 503, NULL, "too many long requests are under way; ask again soon");
        else {
                q->retry_after_s = 0;
                return true;
        }
        return false;
}

void request_start_job(Request *q, int (*slice)(Request *, Slice *)) {
        const TickBudget *budget = jobs_budget(q->api);

        if (!jobs_has_room(q))
                return;
        q->slice = slice;
        list_link_tail(&q->api->sliced, &q->sliced);
        /* New ones have half of the budget at most: those that wait get on, too. */
        if (budget->spent < JOBS_TICK_TASKS / 2 && budget->spent_us < JOBS_TICK_US / 2)
                job_turn(q);
        jobs_schedule(q->api);
}

void request_leave_jobs(Request *q) {
        q->slice = NULL;
        request_unhide(q);
        if (!list_is_linked(&q->sliced))
                return;
        list_unlink(&q->sliced);
        if (list_is_empty(&q->api->sliced))
                timer_clear(&q->api->jobs_timer);
}

/* ---- batches that are being made ---- */

void request_unhide(Request *q) {
        if (id_is_null(&q->hidden))
                return;
        q->hidden = (Id){};
        sched_tell(q->api->sched);      /* streams have waited for it */
}

/* The list is short: JOBS_MAX. */
bool api_batch_is_hidden(const Api *api, const Id *batch) {
        if (id_is_null(batch))
                return false;
        list_for_each_safe(i, &api->sliced)
                if (id_equal(&container_of(i, Request, sliced)->hidden, batch))
                        return true;
        return false;
}

uint64_t api_events_max(const Api *api, const char *principal) {
        uint64_t n = UINT64_MAX;

        list_for_each_safe(i, &api->sliced) {
                const Request *q = container_of(i, Request, sliced);
                if (!id_is_null(&q->hidden) && (!*principal || streq(q->principal.name, principal)))
                        n = MIN(n, q->hidden_since);
        }
        return n;
}
