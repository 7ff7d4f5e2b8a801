#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include "sched/state.h"

#include <cmocka.h>

static void test_table(void **state) {
        assert_int_equal(task_transition(TASK_QUEUED, TASK_EVENT_PICK), TASK_RUNNING);
        assert_int_equal(task_transition(TASK_RUNNING, TASK_EVENT_DELAY), TASK_DELAYED);
        assert_int_equal(task_transition(TASK_RUNNING, TASK_EVENT_PICK), 0);
        assert_int_equal(task_transition(TASK_QUEUED, TASK_EVENT_SUCCEED), 0);
        for (TaskState s = 1; s < _TASK_STATE_N; s++)
                for (TaskEvent e = 0; e < _TASK_EVENT_N; e++) {
                        assert_non_null(task_event_name(e));
                        /* What has ended only runs again, and only where it did not succeed. */
                        if (task_state_is_final(s))
                                assert_int_equal(task_transition(s, e),
                                                 e == TASK_EVENT_RETRY && s != TASK_SUCCEEDED && s != TASK_REJECTED
                                                         ? TASK_QUEUED : 0);
                }
}

/* Every live state that can be entered can be cancelled. */
static void test_cancel_everywhere(void **state) {
        for (TaskState s = 1; s < _TASK_STATE_N; s++)
                if (!task_state_is_final(s))
                        assert_int_equal(task_transition(s, TASK_EVENT_CANCEL), TASK_CANCELLED);
}

/* Random walks never leave the known states, and from wherever one ends a final state can be reached. */
static void test_walks(void **state) {
        unsigned seed = 12345;

        for (int walk = 0; walk < 10000; walk++) {
                static const TaskState first[] = { TASK_QUEUED, TASK_DELAYED, TASK_BLOCKED, TASK_HELD };
                TaskState s = first[walk % 4];
                for (int step = 0; step < 40; step++) {
                        seed = seed * 1103515245 + 12345;
                        TaskState next = task_transition(s, (seed >> 16) % _TASK_EVENT_N);
                        if (next)
                                s = next;
                        assert_in_range(s, 1, _TASK_STATE_N - 1);
                }
                if (!task_state_is_final(s))
                        assert_true(task_state_is_final(task_transition(s, TASK_EVENT_CANCEL)));
        }
}

static void test_names(void **state) {
        for (TaskState s = 1; s < _TASK_STATE_N; s++)
                assert_int_equal(task_state_from_name(task_state_name(s)), s);
        assert_int_equal(task_state_from_name("nonsense"), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),
                cmocka_unit_test(test_cancel_everywhere),
                cmocka_unit_test(test_walks),
                cmocka_unit_test(test_names),
        };
        return cmocka_run_group_tests_name("sched-state", tests, NULL, NULL);
}
