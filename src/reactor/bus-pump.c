/*
 * The sd-bus pump, a file of its own beside source.c: a program that uses signals only does not get libsystemd linked
 * in (and its memory).
 */

#include <assert.h>
#include <systemd/sd-bus.h>

#include "base/error.h"
#include "reactor/source.h"

/* Messages handled in one go; then other work comes first. */
#define BUS_PUMP_MESSAGES_MAX 64

static void bus_pump_fail(BusPump *p, int error) {
        p->failed = true;
        timer_clear(&p->timer);
        op_cancel(&p->poll);
        p->on_error(p, error);
}

static int bus_pump_rearm(BusPump *p) {
        uint64_t at_us;
        int fd, events, r;

        events = sd_bus_get_events(p->bus);
        if (events < 0)
                return error_origin(events);
        r = sd_bus_get_timeout(p->bus, &at_us);
        if (r < 0)
                return error_origin(r);
        if (r > 0 && at_us != UINT64_MAX)
                timer_set(&p->timer, at_us);
        else
                timer_clear(&p->timer);
        if (p->poll.in_flight) {
                /* The wrong events: the callback of the cancellation comes back here. */
                if (p->events != (uint32_t)events)
                        op_cancel(&p->poll);
                return 0;
        }
        fd = sd_bus_get_fd(p->bus);
        if (fd < 0)
                return error_origin(fd);
        p->events = (uint32_t)events;
        op_poll(&p->poll, fd, p->events, false);
        return 0;
}

static void bus_pump_process(BusPump *p) {
        int r = 0;

        if (p->failed)
                return;
        for (unsigned n = 0; n < BUS_PUMP_MESSAGES_MAX; n++) {
                r = sd_bus_process(p->bus, NULL);
                if (p->closing)         /* by a callback of the bus */
                        return;
                if (r <= 0)
                        break;
        }
        if (r > 0)
                defer_schedule(&p->kick);
        if (r >= 0)
                r = bus_pump_rearm(p);
        if (r < 0)
                bus_pump_fail(p, r);
}

static void bus_pump_on_poll(Op *op, int res, bool more) {
        BusPump *p = container_of(op, BusPump, poll);

        if (p->closing)
                defer_schedule(&p->closed);
        else if (res < 0 && res != -ECANCELED && !p->failed)
                bus_pump_fail(p, res);
        else
                bus_pump_process(p);
}

static void bus_pump_on_timer(Timer *timer) {
        bus_pump_process(container_of(timer, BusPump, timer));
}

static void bus_pump_on_kick(Defer *defer) {
        bus_pump_process(container_of(defer, BusPump, kick));
}

static void bus_pump_on_closed(Defer *defer) {
        BusPump *p = container_of(defer, BusPump, closed);

        assert(!p->poll.in_flight);
        if (p->on_closed)
                p->on_closed(p);
}

void bus_pump_init(BusPump *p, Reactor *reactor, struct sd_bus *bus, void (*on_error)(BusPump *pump, int error)) {
        *p = (BusPump){ .reactor = reactor, .bus = bus, .on_error = on_error };
        op_init(&p->poll, reactor, bus_pump_on_poll);
        timer_init(&p->timer, reactor, bus_pump_on_timer);
        defer_init(&p->kick, reactor, bus_pump_on_kick);
        defer_init(&p->closed, reactor, bus_pump_on_closed);
        defer_schedule(&p->kick);
}

void bus_pump_kick(BusPump *p) {
        if (!p->closing && !p->failed)
                defer_schedule(&p->kick);
}

void bus_pump_close(BusPump *p, void (*on_closed)(BusPump *pump)) {
        if (p->closing)
                return;
        p->closing = true;
        p->on_closed = on_closed;
        timer_clear(&p->timer);
        defer_cancel(&p->kick);
        op_cancel(&p->poll);
        if (!p->poll.in_flight)
                defer_schedule(&p->closed);
}
