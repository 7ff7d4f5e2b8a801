/* Pressure of the machine: the kernel's texts, thresholds and hysteresis, and what the queue does of it. */

#include "sched/test-util.h"

static const char memory_text[] = "some avg10=12.34 avg60=5.00 avg300=1.00 total=123456\n"
                                  "full avg10=3.05 avg60=1.00 avg300=0.00 total=23456\n";
static const char meminfo_text[] = "MemTotal:       16305932 kB\nMemFree:         1024000 kB\n"
                                   "MemAvailable:    8000000 kB\nBuffers:          100000 kB\n";

static void test_parse(void **state) {
        static const struct { const char *text; bool good; uint32_t some, full; } table[] = {
                { memory_text, true, 1234, 305 },
                { "some avg10=100.00 avg60=0.00 avg300=0.00 total=0\n", true, 10000, 0 },
                { "full avg10=1.00 avg60=0.00\nsome avg10=0.00 avg60=0.00\n", true, 0, 100 },
                { "some avg10=0.07", true, 7, 0 },
                { "", false, 0, 0 },
                { "some avg60=1.00\n", false, 0, 0 },
                { "some avg10=\n", false, 0, 0 },
                { "some avg10=1\n", false, 0, 0 },
                { "some avg10=1.0\n", false, 0, 0 },
                { "some avg10=1.000\n", false, 0, 0 },
                { "some avg10=-1.00\n", false, 0, 0 },
                { "some avg10=101.00\n", false, 0, 0 },
                { "some avg10=99999999999999999999.00\n", false, 0, 0 },
                { "awesome avg10=1.00\n", false, 0, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                PressureStall stall = { 1, 2 };
                assert_int_equal(pressure_parse(table[i].text, &stall), table[i].good);
                assert_int_equal(stall.some, table[i].good ? table[i].some : 1);
                assert_int_equal(stall.full, table[i].good ? table[i].full : 2);
        }
}

static void test_parse_available(void **state) {
        static const struct { const char *text; bool good; uint64_t bytes; } table[] = {
                { meminfo_text, true, UINT64_C(8000000) * 1024 },
                { "MemAvailable: 0 kB\n", true, 0 },
                { "MemTotal: 5 kB\n", false, 0 },
                { "XMemAvailable: 5 kB\n", false, 0 },
                { "MemAvailable: kB\n", false, 0 },
                { "MemAvailable: 5 MB\n", false, 0 },
                { "MemAvailable: 5", false, 0 },
                { "MemAvailable: 99999999999999999999 kB\n", false, 0 },
                { "MemAvailable: 18446744073709551615 kB\n", false, 0 },
                { "", false, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                uint64_t bytes = 1;
                assert_int_equal(pressure_parse_available(table[i].text, &bytes), table[i].good);
                assert_int_equal(bytes, table[i].good ? table[i].bytes : 1);
        }
}

/* ---- a machine of the test's own ---- */

typedef struct Machine {
        double some[_PRESSURE_SOURCE_N], full[_PRESSURE_SOURCE_N];      /* percent; below 0: no such file */
        uint64_t available_mib;
        unsigned n_reads;
} Machine;

static int machine_read(Pressure *p, PressureSource source, char text[static PRESSURE_TEXT_MAX]) {
        Machine *m = p->userdata;

        m->n_reads++;
        if (source == PRESSURE_SOURCE_MEMINFO)
                snprintf(text, PRESSURE_TEXT_MAX, "MemTotal: 1 kB\nMemAvailable: %llu kB\n",
                         (unsigned long long)m->available_mib << 10);
        else if (m->some[source] < 0)
                return -ENOENT;
        else
                snprintf(text, PRESSURE_TEXT_MAX, "some avg10=%.2f avg60=0.00\nfull avg10=%.2f avg60=0.00\n", m->some[source],
                         m->full[source]);
        return 0;
}

#define MACHINE_IDLE { .available_mib = 4096 }

static void machine_set(Pressure *p, Machine *m) {
        p->read = machine_read;
        p->userdata = m;
}

static void test_thresholds(void **state) {
        PressureConfig config = PRESSURE_CONFIG_DEFAULT;
        Machine m = MACHINE_IDLE;
        Pressure p;

        pressure_init(&p);
        assert_false(pressure_is_known(&p));
        machine_set(&p, &m);
        assert_true(pressure_is_known(&p));
        const struct { double some, full; bool launch, admit; } steps[] = {
                { 0, 0, false, false },
                { 20, 0, false, false },        /* not above */
                { 20.01, 0, true, false },
                { 15, 0, true, false },         /* not a quarter below */
                { 14.99, 0, false, false },
                { 19, 0, false, false },
                { 60, 20.5, true, true },
                { 60, 15, true, true },
                { 10, 14, false, false },
                { -1, 0, false, false },
        };
        for (size_t i = 0; i < ELEMENTSOF(steps); i++) {
                m.some[PRESSURE_SOURCE_MEMORY] = steps[i].some;
                m.full[PRESSURE_SOURCE_MEMORY] = steps[i].full;
                pressure_look(&p, &config);
                assert_int_equal(pressure_holds_launch(&p), steps[i].launch);
                assert_int_equal(pressure_holds_admit(&p), steps[i].admit);
                assert_int_equal(*p.detail != 0, steps[i].launch || steps[i].admit);
        }

        /* The slice's own memory counts as the machine's does; a file that goes away lets go. */
        m.some[PRESSURE_SOURCE_SLICE] = 50;
        pressure_look(&p, &config);
        assert_true(pressure_holds_launch(&p));
        assert_string_equal(p.detail, "some stood still for want of memory in 50.00% of the last 10 s");
        m.some[PRESSURE_SOURCE_SLICE] = -1;
        pressure_look(&p, &config);
        assert_false(pressure_holds_launch(&p));

        /* CPU and disk only where they are asked for; all can't stand still for want of CPU. */
        m.some[PRESSURE_SOURCE_CPU] = m.some[PRESSURE_SOURCE_IO] = m.full[PRESSURE_SOURCE_IO] = 90;
        pressure_look(&p, &config);
        assert_false(pressure_holds_launch(&p) || pressure_holds_admit(&p));
        config.admit[PRESSURE_CPU] = 80;
        pressure_look(&p, &config);
        assert_false(pressure_holds_launch(&p));
        assert_true(pressure_holds_admit(&p));
        assert_string_equal(p.detail, "some stood still for want of CPU time in 90.00% of the last 10 s");
        config.admit[PRESSURE_CPU] = 0;
        config.launch[PRESSURE_IO] = 50;
        pressure_look(&p, &config);
        assert_true(pressure_holds_launch(&p));
        assert_false(pressure_holds_admit(&p));
        config.launch[PRESSURE_IO] = 0;

        const struct { uint64_t mib; bool launch; } left[] = {
                { 256, false }, { 255, true }, { 319, true }, { 320, false }, { 257, false },
        };
        for (size_t i = 0; i < ELEMENTSOF(left); i++) {
                m.available_mib = left[i].mib;
                pressure_look(&p, &config);
                assert_int_equal(pressure_holds_launch(&p), left[i].launch);
        }
        m.available_mib = 0;
        config.available = 0;
        pressure_look(&p, &config);
        assert_false(pressure_holds_launch(&p));
        pressure_deinit(&p);
}

/* The machine of the test: whatever it has, it must be read or found missing. */
static void test_open(void **state) {
        const PressureConfig config = PRESSURE_CONFIG_DEFAULT;
        Pressure p;

        log_set_max_level(LOG_EMERG);
        pressure_init(&p);
        pressure_open(&p);
        pressure_look(&p, &config);
        assert_true(p.present[PRESSURE_SOURCE_MEMINFO]);
        assert_true(p.available > 0);
        for (PressureSource i = 0; i < PRESSURE_SOURCE_MEMINFO; i++)
                assert_int_equal(p.present[i], p.fds[i] >= 0);
        pressure_deinit(&p);
        assert_false(pressure_is_known(&p));
}

/* ---- the queue ---- */

static void assert_waits(World *w, const Id *id, const char *reason) {
        _cleanup_(store_task_freep) StoreTask *task = world_load(w, id);
        SchedWaiting waiting;

        assert_true(sched_waiting(w->sched, task, &waiting));
        assert_string_equal(waiting.reason, reason);
}

static void finish(FakeAttempt *a) {
        fake_print(a, 1, "hi\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
}

static void test_launch(void **state) {
        Machine m = MACHINE_IDLE;
        Id ids[4];
        World w;

        world_init(&w, 1);
        machine_set(&w.sched->pressure, &m);
        w.sched->config.pressure = (PressureConfig)PRESSURE_CONFIG_DEFAULT;
        ids[0] = world_submit(&w, &(TaskSpec){ .agent = "text" });
        ids[1] = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_run_until(&w, sched_stats(w.sched).n_running == 2);

        /* What runs goes on, and nothing more starts; tasks are still taken. */
        m.some[PRESSURE_SOURCE_MEMORY] = 50;
        world_pass(&w, 2 * USEC_PER_SEC);
        ids[2] = world_submit(&w, &(TaskSpec){ .agent = "text" });
        ids[3] = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_pass(&w, 60 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 2);
        assert_waits(&w, &ids[2], "pressure");
        finish(w.launcher.attempts[0]);
        world_run_until(&w, world_is_final(&w, &ids[0]));
        world_pass(&w, 60 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 2);

        /* Where nothing runs, one may. */
        finish(w.launcher.attempts[1]);
        world_spawned(&w, 2);
        world_pass(&w, 60 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 3);
        assert_waits(&w, &ids[3], "pressure");

        /* It goes: the rest starts within a second or so, with nobody asking. */
        m.some[PRESSURE_SOURCE_MEMORY] = 16;
        world_pass(&w, 5 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 3);
        m.some[PRESSURE_SOURCE_MEMORY] = 5;
        world_pass(&w, 2 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 4);
        finish(w.launcher.attempts[2]);
        finish(w.launcher.attempts[3]);
        world_run_until(&w, sched_stats(w.sched).n_live == 0);

        /* No tasks: nobody looks. */
        world_pass(&w, 2 * USEC_PER_SEC);
        m.n_reads = 0;
        world_pass(&w, 60 * USEC_PER_SEC);
        assert_int_equal(m.n_reads, 0);
        world_deinit(&w);
}

static void test_admit(void **state) {
        Machine m = MACHINE_IDLE;
        World w;
        Id id;

        world_init(&w, 2);
        machine_set(&w.sched->pressure, &m);
        w.sched->config.pressure = (PressureConfig)PRESSURE_CONFIG_DEFAULT;
        m.full[PRESSURE_SOURCE_MEMORY] = 40;
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "text" }, &id), SCHED_E_PRESSURE);
        assert_string_equal(w.detail, "the machine is under pressure: all stood still for want of memory in 40.00% of the "
                            "last 10 s");
        /* The last look is fresh: many submits don't read the files many times. */
        m.n_reads = 0;
        for (int i = 0; i < 100; i++)
                assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "text" }, &id), SCHED_E_PRESSURE);
        assert_int_equal(m.n_reads, 0);
        m.full[PRESSURE_SOURCE_MEMORY] = 1;
        world_pass(&w, 2 * USEC_PER_SEC);
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        finish(world_spawned(&w, 0));
        world_finish(&w, &id);
        world_deinit(&w);
}

/* ---- draining ---- */

static void on_drained(void *userdata) {
        ++*(unsigned *)userdata;
}

static void test_drain(void **state) {
        unsigned n_drained = 0;
        Id waiting;
        World w;

        world_init(&w, 3);
        world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_spawned(&w, 0);
        sched_drain(w.sched, on_drained, &n_drained);
        waiting = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_pass(&w, 60 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 1);
        assert_int_equal(n_drained, 0);
        assert_waits(&w, &waiting, "draining");
        assert_true(sched_stats(w.sched).draining);
        finish(w.launcher.attempts[0]);
        world_run_until(&w, n_drained);
        world_pass(&w, 60 * USEC_PER_SEC);
        assert_int_equal(n_drained, 1);
        assert_int_equal(w.launcher.n, 1);

        /* The next start takes it up. */
        world_crash(&w);
        finish(world_spawned(&w, 1));
        world_finish(&w, &waiting);

        /* Nothing runs: at once. */
        n_drained = 0;
        sched_drain(w.sched, on_drained, &n_drained);
        world_run_until(&w, n_drained);
        world_deinit(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parse),
                cmocka_unit_test(test_parse_available),
                cmocka_unit_test(test_thresholds),
                cmocka_unit_test(test_open),
                cmocka_unit_test(test_launch),
                cmocka_unit_test(test_admit),
                cmocka_unit_test(test_drain),
        };
        return cmocka_run_group_tests_name("sched-pressure", tests, NULL, NULL);
}
