#pragma once

/*
 * state: the task state machine. task_transition() is the only place that says which event leads from which state to
 * which; everything else asks it.
 */

#include "store/store.h"

typedef enum TaskEvent {
        TASK_EVENT_PICK,                /* a slot is free */
        TASK_EVENT_DELAY,               /* not_before lies ahead, or a retry backs off */
        TASK_EVENT_DUE,                 /* the delay is over, or what it depended on has ended as it should */
        TASK_EVENT_REQUEUE,             /* an attempt that never began, or another agent's turn */
        TASK_EVENT_SUCCEED,
        TASK_EVENT_FAIL,                /* the last attempt failed for good */
        TASK_EVENT_EXHAUST,             /* attempts used up */
        TASK_EVENT_TIME_OUT,
        TASK_EVENT_CANCEL,
        TASK_EVENT_EXPIRE,              /* its deadline passed before it ran */
        TASK_EVENT_HOLD,                /* a policy wants an operator's word */
        TASK_EVENT_RELEASE,             /* which is here */
        TASK_EVENT_REJECT,              /* a policy or the operator denies it */
        TASK_EVENT_RETRY,               /* somebody wants it run again */
        TASK_EVENT_BLOCK,               /* what it depends on has not ended */
        _TASK_EVENT_N,
} TaskEvent;

const char *task_event_name(TaskEvent event);
/* The state after the event, or 0 where the event is illegal in this state. */
TaskState task_transition(TaskState state, TaskEvent event);
