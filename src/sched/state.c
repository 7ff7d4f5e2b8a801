#include "sched/state.h"

static const uint8_t transitions[_TASK_STATE_N][_TASK_EVENT_N] = {
        [TASK_QUEUED] = {
                [TASK_EVENT_PICK] = TASK_RUNNING,
                [TASK_EVENT_DELAY] = TASK_DELAYED,
                [TASK_EVENT_BLOCK] = TASK_BLOCKED,      /* queued anew, and what it depends on, too */
                [TASK_EVENT_FAIL] = TASK_FAILED,        /* e.g. its agent is no longer configured */
                [TASK_EVENT_CANCEL] = TASK_CANCELLED,
                [TASK_EVENT_EXPIRE] = TASK_EXPIRED,
                [TASK_EVENT_HOLD] = TASK_HELD,
                [TASK_EVENT_REJECT] = TASK_REJECTED,
        },
        [TASK_DELAYED] = {
                [TASK_EVENT_DUE] = TASK_QUEUED,
                [TASK_EVENT_FAIL] = TASK_FAILED,
                [TASK_EVENT_CANCEL] = TASK_CANCELLED,
                [TASK_EVENT_EXPIRE] = TASK_EXPIRED,
                [TASK_EVENT_HOLD] = TASK_HELD,
                [TASK_EVENT_REJECT] = TASK_REJECTED,
        },
        [TASK_BLOCKED] = {
                [TASK_EVENT_DUE] = TASK_QUEUED,
                [TASK_EVENT_DELAY] = TASK_DELAYED,
                [TASK_EVENT_FAIL] = TASK_FAILED,
                [TASK_EVENT_CANCEL] = TASK_CANCELLED,   /* also where a dependency rules it out */
                [TASK_EVENT_EXPIRE] = TASK_EXPIRED,
                [TASK_EVENT_HOLD] = TASK_HELD,
                [TASK_EVENT_REJECT] = TASK_REJECTED,
        },
        [TASK_HELD] = {
                [TASK_EVENT_RELEASE] = TASK_QUEUED,
                [TASK_EVENT_DELAY] = TASK_DELAYED,
                [TASK_EVENT_FAIL] = TASK_FAILED,
                [TASK_EVENT_CANCEL] = TASK_CANCELLED,
                [TASK_EVENT_EXPIRE] = TASK_EXPIRED,
                [TASK_EVENT_REJECT] = TASK_REJECTED,
        },
        [TASK_RUNNING] = {
                [TASK_EVENT_DELAY] = TASK_DELAYED,
                [TASK_EVENT_REQUEUE] = TASK_QUEUED,
                [TASK_EVENT_SUCCEED] = TASK_SUCCEEDED,
                [TASK_EVENT_FAIL] = TASK_FAILED,
                [TASK_EVENT_EXHAUST] = TASK_DEAD,
                [TASK_EVENT_TIME_OUT] = TASK_TIMED_OUT,
                [TASK_EVENT_CANCEL] = TASK_CANCELLED,
        },
        /* Final states have no way out but a retry, which somebody asks for; success and a denial have none. */
        [TASK_FAILED] = { [TASK_EVENT_RETRY] = TASK_QUEUED },
        [TASK_CANCELLED] = { [TASK_EVENT_RETRY] = TASK_QUEUED },
        [TASK_TIMED_OUT] = { [TASK_EVENT_RETRY] = TASK_QUEUED },
        [TASK_DEAD] = { [TASK_EVENT_RETRY] = TASK_QUEUED },
        [TASK_EXPIRED] = { [TASK_EVENT_RETRY] = TASK_QUEUED },
};

const char *task_event_name(TaskEvent event) {
        static const char *const names[_TASK_EVENT_N] = {
                "pick", "delay", "due", "requeue", "succeed", "fail", "exhaust", "time_out", "cancel",
                "expire", "hold", "release", "reject", "retry", "block",
        };
        return names[event];
}

TaskState task_transition(TaskState state, TaskEvent event) {
        return transitions[state][event];
}
