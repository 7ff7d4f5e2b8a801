/* Signals, and the sd-bus pump: two ends of one bus connection on one reactor, a method call and its reply. */

#include "reactor/test-util.h"

#include <systemd/sd-bus.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "reactor/source.h"

typedef struct TestSignals {
        SignalSource source;
        unsigned n_usr1, n_usr2;
        pid_t from;
        bool close_at_once, closed;
} TestSignals;

static void signals_on_closed(SignalSource *source) {
        container_of(source, TestSignals, source)->closed = true;
}

static void on_signal(SignalSource *source, int signo, pid_t from) {
        TestSignals *t = container_of(source, TestSignals, source);

        assert_false(source->closing);
        assert_true(signo == SIGUSR1 || signo == SIGUSR2);
        *(signo == SIGUSR1 ? &t->n_usr1 : &t->n_usr2) += 1;
        t->from = from;
        if (t->close_at_once)
                signal_source_close(source, signals_on_closed);
}

static void test_signals(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(false);
        TestSignals t = {};
        sigset_t mask;

        sigemptyset(&mask);
        sigaddset(&mask, SIGUSR1);
        sigaddset(&mask, SIGUSR2);
        assert_int_equal(signal_source_init(&t.source, reactor, &mask, on_signal), 0);
        /* Sent before the ring is enabled: it waits. */
        assert_int_equal(kill(getpid(), SIGUSR1), 0);
        assert_int_equal(reactor_tick(reactor, 0), 0);
        assert_int_equal(t.n_usr1, 0);
        assert_int_equal(reactor_enable(reactor), 0);
        test_run_until(reactor, t.n_usr1 == 1);
        assert_int_equal(t.from, getpid());
        for (unsigned i = 2; i < 5; i++) {
                assert_int_equal(kill(getpid(), SIGUSR1), 0);
                assert_int_equal(kill(getpid(), SIGUSR2), 0);
                test_run_until(reactor, t.n_usr1 == i && t.n_usr2 == i - 1);
        }
        /* Two are pending and the first closes: the second is not told. */
        t.close_at_once = true;
        assert_int_equal(kill(getpid(), SIGUSR1), 0);
        assert_int_equal(kill(getpid(), SIGUSR2), 0);
        test_run_until(reactor, t.closed);
        assert_int_equal(t.n_usr1 + t.n_usr2, 4 + 3 + 1);

        t = (TestSignals){};
        assert_int_equal(signal_source_init(&t.source, reactor, &mask, on_signal), 0);
        test_run_until(reactor, t.n_usr1 + t.n_usr2 == 1);      /* it was still pending */
        signal_source_close(&t.source, signals_on_closed);
        signal_source_close(&t.source, signals_on_closed);
        test_run_until(reactor, t.closed);
}

typedef struct TestBus {
        BusPump pump;
        sd_bus *bus;
        unsigned n_calls, n_replies;
        char *reply;
        int error;
        bool close_in_callback, closed;
} TestBus;

static void bus_on_error(BusPump *pump, int error) {
        container_of(pump, TestBus, pump)->error = error;
}

static void bus_on_closed(BusPump *pump) {
        container_of(pump, TestBus, pump)->closed = true;
}

static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        TestBus *t = userdata;
        const char *s;

        if (!sd_bus_message_is_method_call(m, "test.Interface", "Echo"))
                return 0;
        t->n_calls++;
        assert_true(sd_bus_message_read(m, "s", &s) > 0);
        if (streq(s, "no answer"))
                return 1;
        return sd_bus_reply_method_return(m, "s", s) < 0 ? -EIO : 1;
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        TestBus *t = userdata;
        const char *s;

        t->n_replies++;
        free(t->reply);
        if (sd_bus_message_is_method_error(m, NULL))
                t->reply = strdup(sd_bus_message_get_error(m)->name);
        else {
                assert_true(sd_bus_message_read(m, "s", &s) > 0);
                t->reply = strdup(s);
        }
        if (t->close_in_callback)
                bus_pump_close(&t->pump, bus_on_closed);
        return 1;
}

static void test_bus_init(TestBus *t, Reactor *reactor, int fd, bool server) {
        sd_id128_t id = SD_ID128_MAKE(01, 23, 45, 67, 89, ab, cd, ef, 01, 23, 45, 67, 89, ab, cd, ef);

        *t = (TestBus){};
        assert_true(sd_bus_new(&t->bus) >= 0);
        assert_true(sd_bus_set_fd(t->bus, fd, fd) >= 0);
        if (server) {
                assert_true(sd_bus_set_server(t->bus, 1, id) >= 0);
                assert_true(sd_bus_add_filter(t->bus, NULL, on_message, t) >= 0);
        }
        assert_true(sd_bus_start(t->bus) >= 0);
        bus_pump_init(&t->pump, reactor, t->bus, bus_on_error);
}

static void test_bus_call(TestBus *t, const char *s, uint64_t timeout_us) {
        sd_bus_message *m = NULL;

        assert_true(sd_bus_message_new_method_call(t->bus, &m, NULL, "/test", "test.Interface", "Echo") >= 0);
        assert_true(sd_bus_message_append(m, "s", s) >= 0);
        assert_true(sd_bus_call_async(t->bus, NULL, m, on_reply, t, timeout_us) >= 0);
        sd_bus_message_unref(m);
        bus_pump_kick(&t->pump);
}

static void test_bus_deinit(TestBus *t, Reactor *reactor) {
        bus_pump_close(&t->pump, bus_on_closed);
        bus_pump_close(&t->pump, bus_on_closed);
        bus_pump_kick(&t->pump);
        test_run_until(reactor, t->closed);
        sd_bus_close_unref(t->bus);
        free(t->reply);
}

static void test_bus(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        static char large[300000];
        TestBus server, client;
        uint64_t start_us;
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        test_bus_init(&server, reactor, fds[0], true);
        test_bus_init(&client, reactor, fds[1], false);
        test_bus_call(&client, "hello", 0);
        test_run_until(reactor, client.n_replies == 1);
        assert_string_equal(client.reply, "hello");
        for (unsigned i = 0; i < 100; i++)
                test_bus_call(&client, "many", 0);
        test_run_until(reactor, client.n_replies == 101);
        /* More than the socket holds: it waits to write. */
        memset(large, 'x', sizeof(large) - 1);
        test_bus_call(&client, large, 0);
        test_run_until(reactor, client.n_replies == 102);
        assert_string_equal(client.reply, large);
        /* No answer: the bus's own timeout. */
        start_us = clock_monotonic_us();
        test_bus_call(&client, "no answer", 50 * USEC_PER_MSEC);
        test_run_until(reactor, client.n_replies == 103);
        assert_string_equal(client.reply, SD_BUS_ERROR_NO_REPLY);
        assert_true(clock_monotonic_us() >= start_us + 50 * USEC_PER_MSEC);
        assert_int_equal(server.n_calls, 103);
        assert_int_equal(client.error, 0);
        /* Closed from within the bus's callback. */
        client.close_in_callback = true;
        test_bus_call(&client, "last", 0);
        test_run_until(reactor, client.closed);
        test_bus_deinit(&client, reactor);
        /* The peer is gone. */
        test_run_until(reactor, server.error);
        assert_true(server.error < 0);
        test_bus_deinit(&server, reactor);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_signals),
                cmocka_unit_test(test_bus),
        };

        log_open("test-source");
        log_set_max_level(LOG_ERR);
        return cmocka_run_group_tests_name("source", tests, NULL, NULL);
}
