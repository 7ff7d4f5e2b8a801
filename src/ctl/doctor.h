#pragma once

/*
 * doctor: what this machine has of what the router needs. A check reports itself: fine, a warning (something works less
 * well, or is not there yet), or missing (the router can't do without), the last two with a remedy.
 */

#include "ctl/ctl.h"

typedef struct Doctor Doctor;

typedef enum DoctorStatus {
        DOCTOR_OK,
        DOCTOR_WARNING,
        DOCTOR_MISSING,
} DoctorStatus;

struct Doctor {
        Ctl *ctl;
        json_object *checks;            /* with --json */
        json_object *agents;
        unsigned n_warnings;
        unsigned n_missing;
};

/* remedy is NULL for DOCTOR_OK. */
void doctor_report(Doctor *d, DoctorStatus status, const char *name, const char *remedy, const char *format, ...)
        _printf_(5, 6);

/* doctor-kernel.c */
void doctor_check_kernel(Doctor *d);
void doctor_check_io_uring(Doctor *d);
void doctor_check_landlock(Doctor *d);
void doctor_check_seccomp(Doctor *d);
/* doctor-sandbox.c */
void doctor_check_namespaces(Doctor *d);
void doctor_check_cgroups(Doctor *d);
/* doctor-agents.c: the CLIs, their versions and logins. */
void doctor_check_agents(Doctor *d);
