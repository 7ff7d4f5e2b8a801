#pragma once

/*
 * state: the task state machine. task_transition() is the only place that says which event leads from which state to
 * which; everything else asks it.
 */

#include "store/store.h"

typedef enum TaskEvent {
        TASK_EVENT_PICK,                /* a slot is free */
        TASK_EVENT_DELAY,               /* not_before lies ahead, or a retry backs off */
        TASK_EVENT_DUE,                 /* the delay is over */
        TASK_EVENT_REQUEUE,             /* an attempt that never began goes back to the queue */
        TASK_EVENT_SUCCEED,
        TASK_EVENT_FAIL,                /* the last attempt failed for good */
        TASK_EVENT_EXHAUST,             /* attempts used up */
        TASK_EVENT_TIME_OUT,
        TASK_EVENT_CANCEL,
        _TASK_EVENT_N,
} TaskEvent;

const char *task_event_name(TaskEvent event);
/* The state after the event, or 0 where the event is illegal in this state. */
TaskState task_transition(TaskState state, TaskEvent event);
