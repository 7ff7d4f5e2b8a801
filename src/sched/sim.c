/*
 * sim: scheduler, store and a launcher of the test's own, run from a seed with faults.
 *
 *     sim [--seed N | --seeds A..B] [--seconds S] [--trace]
 *
 * A seed decides what is submitted, cancelled, limited and paused, what the agents do, when processes die, the disk is
 * full, a commit fails, or a clock jumps, and how the ring orders its completions: the same seed is the same run, for
 * ids and back-offs come from it too. After some hundred steps the faults stop, and everything has to end. What must
 * hold is in sim-model.h, what may happen in sim-acts.h.
 *
 * Seeds run in blocks, each block in a process of its own, so that a crash, an assertion or a hang costs one seed: its
 * number, the command that runs it again and its last steps are printed. One line of TAP a block.
 */

#include "sched/sim-acts.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/parse.h"

#define STEPS_N 400
#define BLOCK_SEEDS 20
/* Of one seed, which takes some 50 ms: what takes as long as this goes on for ever. */
#define SEED_SECONDS_MAX 120
/* Until all has ended once the faults have: gates of an hour and clocks that were set back are waited out. */
#define CALM_MAX_US (72 * 3600 * USEC_PER_SEC)
#define FALLBACK_SECONDS 25

/* ---- one seed ---- */

static void step(void) {
        world_step(&sim.w);
        random_act();
        if (store_failure(sim.w.store) && chance(30))
                crash("its store failed, and the service manager starts it anew");
        sim_check_books(&sim);
}

static bool launcher_is_idle(void) {
        for (size_t i = 0; i < sim.w.launcher.n; i++)
                if (!sim.w.launcher.attempts[i]->forgotten)
                        return false;
        return true;
}

/* The faults are over: everything ends. */
static void calm_down(void) {
        uint64_t end_us = clock_monotonic_us() + CALM_MAX_US;

        sim_log("the faults are over");
        sim.full_percent = 0;
        sim.sync_fails = false;
        sim.calm = true;
        if (store_failure(sim.w.store))
                crash("its store had failed");
        launcher_mend();
        reload(manifests);
        sim.w.launcher.auto_spawn = sim.w.launcher.obey_kill = true;
        for (size_t i = 0; i < ELEMENTSOF(limit_names); i++) {
                int r = unset_limit(&limit_names[i]);
                assert_true(r == 0 || r == SCHED_E_NOT_FOUND);
        }
        while (sched_stats(sim.w.sched).n_live || !launcher_is_idle()) {
                if (clock_monotonic_us() > end_us) {
                        idmap_for_each(i, &sim.w.sched->tasks)
                                sim_log("task %u is %s", sim_find(&i->id)->n,
                                        task_state_name(container_of(i, SchedTask, node)->state));
                        fail_msg("not all ends");
                }
                world_pass(&sim.w, launcher_is_idle() ? 600 * USEC_PER_SEC : USEC_PER_SEC);
        }
        Ack ack = {};
        store_wait(sim.w.store, &ack.wait, ack_fn);
        while (!ack.called)
                world_step(&sim.w);
        assert_int_equal(ack.error, 0);
        sim_log("all has ended");
}

static void check_all_is_zero(void) {
        const Sched *s = sim.w.sched;

        sim_check_books(&sim);
        assert_int_equal(s->tasks.n, 0);
        assert_int_equal(s->flows.n, 0);
        assert_int_equal(s->n_waiting, 0);
        assert_int_equal(s->global->n_running, 0);
        assert_int_equal(s->delayed.n, 0);
        assert_int_equal(s->deadlines.n, 0);
        assert_int_equal(s->limits[SCHED_PRINCIPAL].n, 0);
        assert_int_equal(s->limits[SCHED_GROUP].n, 0);
        assert_true(list_is_empty(&s->runs));
        assert_true(list_is_empty(&s->parked_any));
        assert_true(list_is_empty(&s->parked_resources));
        assert_null(s->resources.first);
        assert_int_equal(s->budgets.n, 0);
        assert_int_equal(s->orphans.n, 0);
        for (size_t i = 0; i < s->n_agents; i++) {
                assert_int_equal(s->agents[i].limit->n_running, 0);
                assert_int_equal(s->agents[i].limit->n_live, 0);
                assert_false(s->agents[i].probing);
        }
        for (size_t i = 0; i < ELEMENTSOF(s->levels); i++)
                assert_true(list_is_empty(&s->levels[i].shares));
        for (size_t i = 0; i < sim.n; i++)
                if (!sim.tasks[i].gone)
                        sim_check_end(&sim, &sim.tasks[i]);
}

static void run_seed(void **state) {
        uint64_t seed = shared->seed;

        memset(&sim, 0, sizeof(sim));
        the_sim = &sim;
        shared->n_lines = 0;
        shared->digest = UINT64_C(0xcbf29ce484222325);
        id_freeze(seed);
        clock_freeze(0, 0);
        world_init(&sim.w, seed);
        sim.w.manifests = manifests;
        sim.w.launcher.n_gpus = SIM_GPUS;
        sim.w.launcher.gpu_shares = SIM_GPU_SHARES;
        sim.w.launcher.cpus = SIM_CPUS;
        sim.w.launcher.memory = SIM_MEMORY;
        sim.w.config.running_max = 1 + (uint32_t)rnd(6);
        sim.w.config.running_per_principal_max = chance(50) ? 0 : 1 + (uint32_t)rnd(4);
        world_stop(&sim.w);
        sim.w.opened = on_opened;
        world_start(&sim.w);
        sim.w.launcher.auto_spawn = chance(30);
        sim.w.launcher.obey_kill = chance(80);
        sim.w.launcher.chunk = chance(30) ? 7 : 0;
        sim.w.poll = poll_agents;
        for (sim.step = 0; sim.step < STEPS_N; sim.step++)
                step();
        calm_down();
        check_all_is_zero();
        /* A restart finds it all ended. */
        crash("once more");
        world_pass(&sim.w, USEC_PER_SEC);
        check_all_is_zero();
        sim_forget_limits(&sim);
        world_deinit(&sim.w);
        id_freeze(0);
}

/* ---- blocks ---- */

static int run_block(uint64_t first, uint64_t last) {
        for (shared->seed = first; shared->seed <= last; shared->seed++) {
                const struct CMUnitTest tests[] = { cmocka_unit_test(run_seed) };
                alarm(SEED_SECONDS_MAX);
                if (cmocka_run_group_tests_name("seed", tests, NULL, NULL))
                        return 1;
                shared->n_seeds++;
        }
        return 0;
}

/* Runs the seeds in a process; true where it ended well. The output of the last seed is in fd. */
static bool run_child(uint64_t first, uint64_t last, int fd, int *ret_status) {
        pid_t pid;

        fflush(stdout);
        if (ftruncate(fd, 0) < 0)
                abort();
        pid = fork();
        if (pid < 0)
                abort();
        if (pid == 0) {
                if (dup2(fd, STDOUT_FILENO) < 0)
                        abort();
                exit(run_block(first, last));
        }
        while (waitpid(pid, ret_status, 0) < 0)
                if (errno != EINTR)
                        abort();
        return WIFEXITED(*ret_status) && WEXITSTATUS(*ret_status) == 0;
}

static void tell_failure(const char *program, int fd, int status) {
        _cleanup_free_ char *text = NULL;
        unsigned n = MIN(shared->n_lines, (unsigned)SIM_LOG_LINES);
        size_t n_text;

        if (WIFSIGNALED(status))
                printf("# seed %" PRIu64 " died by signal %d%s\n", shared->seed, WTERMSIG(status),
                       WTERMSIG(status) == SIGALRM ? ": it does not end" : "");
        if (lseek(fd, 0, SEEK_SET) == 0 && fd_read_all(fd, MIB(16), &text, &n_text) == 0)
                for (char *line = text, *end; *line; line = end) {
                        end = line + strcspn(line, "\n");
                        printf("# %.*s\n", (int)(end - line), line);
                        end += *end == '\n';
                }
        for (unsigned i = shared->n_lines - n; i < shared->n_lines; i++)
                printf("# %s\n", shared->lines[i % SIM_LOG_LINES]);
        printf("# again: %s --seed %" PRIu64 "\n", program, shared->seed);
}

/* One line of TAP; on failure goes on behind the seed that failed. */
static bool tell_block(const char *program, unsigned n, uint64_t first, uint64_t last, int fd) {
        uint64_t from = first;
        int status;

        while (from <= last && !run_child(from, last, fd, &status)) {
                if (from == first || shared->seed > last)
                        printf("not ok %u - seeds %" PRIu64 " to %" PRIu64 "\n", n, first, last);
                tell_failure(program, fd, status);
                if (shared->seed > last)
                        return false;           /* at the end: a leak */
                from = shared->seed + 1;
                if (from > last)
                        return false;
        }
        if (from == first)
                printf("ok %u - seeds %" PRIu64 " to %" PRIu64 "\n", n, first, last);
        return from == first;
}

/* The same seed is the same run: without that, no failure could be had again. */
static bool tell_replay(uint64_t seed, int fd) {
        uint64_t digests[2] = {};
        int status;

        for (size_t i = 0; i < ELEMENTSOF(digests); i++)
                if (run_child(seed, seed, fd, &status))
                        digests[i] = shared->digest;
        printf("%s 1 - a seed is the same run twice\n", digests[0] == digests[1] ? "ok" : "not ok");
        return digests[0] == digests[1];
}

static int usage(void) {
        fprintf(stderr, "usage: sim [--seed N | --seeds A..B] [--seconds S] [--trace]\n");
        return 2;
}

static bool parse_seeds(char *s, uint64_t *ret_first, uint64_t *ret_last) {
        char *dots = strstr(s, "..");

        if (!dots)
                return false;
        *dots = 0;
        return parse_u64_range(s, 1, UINT64_MAX - 1, ret_first) &&
               parse_u64_range(dots + 2, *ret_first, UINT64_MAX - 1, ret_last);
}

int main(int argc, char **argv) {
        uint64_t first = 1, last = UINT64_MAX - 1, seconds = 0, start_us = clock_monotonic_us();
        bool given = false, good = true;
        unsigned n = 0;
        int fd;

        for (int i = 1; i < argc; i++) {
                const char *value = i + 1 < argc ? argv[i + 1] : "";
                if (streq(argv[i], "--trace"))
                        sim_traces = true;
                else if (streq(argv[i], "--seed") && parse_u64_range(value, 1, UINT64_MAX - 1, &first)) {
                        last = first;
                        given = true;
                        i++;
                } else if (streq(argv[i], "--seeds") && i + 1 < argc && parse_seeds(argv[i + 1], &first, &last)) {
                        given = true;
                        i++;
                } else if (streq(argv[i], "--seconds") && parse_u64_range(value, 1, 1000000, &seconds))
                        i++;
                else
                        return usage();
        }
        if (!given && !seconds)
                seconds = FALLBACK_SECONDS;
        fd = memfd_create("sim", MFD_CLOEXEC);
        shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (fd < 0 || shared == MAP_FAILED) {
                fprintf(stderr, "sim: %s\n", strerror(errno));
                return 1;
        }
        if (first != last)
                good = tell_replay(first, fd), n++;
        for (uint64_t seed = first; seed <= last; seed += BLOCK_SEEDS) {
                if (seconds && clock_monotonic_us() > start_us + seconds * USEC_PER_SEC)
                        break;
                n++;
                good &= tell_block(argv[0], n, seed, MIN(last, seed + BLOCK_SEEDS - 1), fd);
        }
        printf("1..%u\n", n);
        printf("# %" PRIu64 " seeds: %" PRIu64 " tasks, %" PRIu64 " attempts, %" PRIu64 " crashes, %" PRIu64
               " writes refused, %" PRIu64 " failed syncs, %" PRIu64 " launcher faults, %" PRIu64 " clock jumps\n",
               shared->n_seeds, shared->n_tasks, shared->n_starts, shared->n_crashes, shared->n_full,
               shared->n_failed_commits, shared->n_launchers_lost, shared->n_jumps);
        return good ? 0 : 1;
}
