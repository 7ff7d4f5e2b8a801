#pragma once

/* agents: the table of agents, of the verbs agents and status. */

#include "ctl/ctl.h"

/* The table of an array of agents, as GET /agents and GET /status give it. */
int agents_print(Ctl *ctl, json_object *agents) _must_check_;
