#include <stdio.h>

#include "adapter/internal.h"

/*
 * Why an attempt failed, and whether trying again can help. The manifest's table comes first, by HTTP status or error
 * text, in its order; then what an HTTP status means for any agent; then the manifest's exit codes, which say least.
 */

#define DIGIT(c) ((c) >= '0' && (c) <= '9')
/* A longer wait than this is no hint for a retry. */
#define RETRY_AFTER_MAX_US (UINT64_C(7) * 24 * 3600 * USEC_PER_SEC)

static const struct {
        const char *name;
        bool retryable;
} reasons[_REASON_N] = {
        [REASON_COMPLETED]       = { "completed",       false },
        [REASON_AUTHENTICATION]  = { "authentication",  false },
        [REASON_RATE_LIMITED]    = { "rate_limited",    true },
        [REASON_QUOTA]           = { "quota",           false },
        [REASON_OVERLOADED]      = { "overloaded",      true },
        [REASON_INVALID_REQUEST] = { "invalid_request", false },
        [REASON_NETWORK]         = { "network",         true },
        [REASON_OUT_OF_MEMORY]   = { "out_of_memory",   false },
        [REASON_NO_RESULT]       = { "no_result",       true },
        [REASON_EXIT_STATUS]     = { "exit_status",     false },
        [REASON_SIGNAL]          = { "signal",          true },
        [REASON_PERMANENT]       = { "permanent",       false },
};

const char *reason_name(Reason reason) {
        return reasons[reason].name;
}

Reason reason_from_name(const char *name) {
        Reason reason = 0;

        while (reason < _REASON_N && !streq(reasons[reason].name, name))
                reason++;
        return reason;
}

bool reason_is_retryable(Reason reason) {
        return reasons[reason].retryable;
}

uint32_t classify_status(const char *text) {
        static const char *const words[] = { "status code", "status", "http/1.1", "http error", "http", "api error" };

        for (size_t i = 0; text && i < ELEMENTSOF(words); i++)
                for (const char *s = text; (s = strcasestr(s, words[i])); s++) {
                        const char *at = s + strlen(words[i]);
                        at += strspn(at, " :=(\"");
                        if (DIGIT(at[0]) && DIGIT(at[1]) && DIGIT(at[2]) && !DIGIT(at[3]) && at[0] >= '4' &&
                            at[0] <= '5')
                                return (uint32_t)((at[0] - '0') * 100 + (at[1] - '0') * 10 + (at[2] - '0'));
                }
        return 0;
}

/* "in 1.5s", "after 20 seconds", "retry-after: 30": a number and perhaps a unit. 0 where there is none. */
static uint64_t retry_after(const char *text) {
        static const char *const words[] = { "try again in ", "retry after ", "retry-after: " };
        /* The first that the text starts with: longer names before their beginnings. */
        static const struct {
                const char *unit;
                uint64_t us;
        } units[] = {
                { "ms", USEC_PER_MSEC },
                { "milli", USEC_PER_MSEC },
                { "m", 60 * USEC_PER_SEC },
                { "h", 3600 * USEC_PER_SEC },
                { "d", UINT64_C(24) * 3600 * USEC_PER_SEC },
        };

        for (size_t i = 0; i < ELEMENTSOF(words); i++) {
                const char *s = strcasestr(text, words[i]);
                uint64_t whole = 0, micro = 0, scale = USEC_PER_SEC / 10, unit = USEC_PER_SEC;
                if (!s || !DIGIT(s[strlen(words[i])]))
                        continue;
                for (s += strlen(words[i]); DIGIT(*s); s++)
                        whole = MIN(whole * 10 + (uint64_t)(*s - '0'), RETRY_AFTER_MAX_US);
                if (*s == '.')
                        for (s++; DIGIT(*s); s++, scale /= 10)
                                micro += scale * (uint64_t)(*s - '0');
                s += *s == ' ';
                for (size_t j = 0; j < ELEMENTSOF(units); j++)
                        if (strncasecmp(s, units[j].unit, strlen(units[j].unit)) == 0) {
                                unit = units[j].us;
                                break;
                        }
                if (whole > RETRY_AFTER_MAX_US / unit)
                        return 0;
                return MIN(whole * unit + micro * unit / USEC_PER_SEC, RETRY_AFTER_MAX_US);
        }
        return 0;
}

static bool rule_matches(const ErrorRule *rule, const char *text, uint32_t status) {
        for (size_t i = 0; i < rule->n_status; i++)
                if (rule->status[i] == status)
                        return true;
        for (size_t i = 0; text && i < rule->n_contains; i++)
                if (strcasestr(text, rule->contains[i]))
                        return true;
        return false;
}

static Reason reason_from_status(uint32_t status) {
        switch (status) {
        case 401:
        case 403:
                return REASON_AUTHENTICATION;
        case 402:
                return REASON_QUOTA;
        case 408:
                return REASON_NETWORK;
        case 429:
                return REASON_RATE_LIMITED;
        default:
                return status >= 500 ? REASON_OVERLOADED : status >= 400 ? REASON_INVALID_REQUEST : _REASON_N;
        }
}

bool classify(const Adapter *a, const char *text, uint32_t status, int exit_code, Classification *ret_c) {
        Classification c = { .retry_after_us = text ? retry_after(text) : 0 };

        if (!status)
                status = classify_status(text);
        for (size_t i = 0; i < a->n_errors; i++) {
                const ErrorRule *rule = &a->errors[i];
                if (!rule_matches(rule, text, status))
                        continue;
                c.reason = rule->reason;
                c.retryable = rule->retryable;
                c.retry_after_us = c.retry_after_us ?: rule->retry_after_us;
                *ret_c = c;
                return true;
        }
        c.reason = reason_from_status(status);
        if (c.reason != _REASON_N) {
                c.retryable = reason_is_retryable(c.reason);
                *ret_c = c;
                return true;
        }
        for (size_t i = 0; i < a->n_errors; i++)
                for (size_t j = 0; j < a->errors[i].n_exit; j++)
                        if (exit_code >= 0 && a->errors[i].exit[j] == (uint32_t)exit_code) {
                                c.reason = a->errors[i].reason;
                                c.retryable = a->errors[i].retryable;
                                c.retry_after_us = c.retry_after_us ?: a->errors[i].retry_after_us;
                                *ret_c = c;
                                return true;
                        }
        return false;
}
