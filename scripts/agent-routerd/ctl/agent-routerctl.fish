# fish completion of agent-routerctl. Installed as /usr/share/fish/vendor_completions.d/agent-routerctl.fish.

# The words of the first column of a table, for ids and names; nothing where there is no router.
function __agent_routerctl_column
    agent-routerctl $argv 2>/dev/null </dev/null | awk 'NR > 1 { print $1 }'
end

function __agent_routerctl_key
    __fish_seen_subcommand_from key; and __fish_seen_subcommand_from $argv
end

set -l verbs submit get list cancel follow key status agents doctor
set -l c complete -c agent-routerctl

$c -f
$c -s j -l json -d "The router's JSON"
$c -l socket -r -F -d 'Control socket'
$c -l url -x -d 'Address of a router'
$c -l key-file -r -F -d 'File with the API key'
$c -s h -l help -d Help
$c -n "not __fish_seen_subcommand_from $verbs" -s V -l version -d Version
$c -n "not __fish_seen_subcommand_from $verbs" -a submit -d 'Submit a task'
$c -n "not __fish_seen_subcommand_from $verbs" -a get -d 'Show a task'
$c -n "not __fish_seen_subcommand_from $verbs" -a list -d 'List tasks'
$c -n "not __fish_seen_subcommand_from $verbs" -a cancel -d 'Cancel tasks'
$c -n "not __fish_seen_subcommand_from $verbs" -a follow -d "Print what a task's agent says"
$c -n "not __fish_seen_subcommand_from $verbs" -a key -d 'Make, list and revoke API keys'
$c -n "not __fish_seen_subcommand_from $verbs" -a status -d 'Show the router'
$c -n "not __fish_seen_subcommand_from $verbs" -a agents -d 'List the agents'
$c -n "not __fish_seen_subcommand_from $verbs" -a doctor -d 'Check this machine'

$c -n '__fish_seen_subcommand_from submit' -s a -l agent -x -a '(__agent_routerctl_column agents)' -d 'Agent to run it'
$c -n '__fish_seen_subcommand_from submit' -s m -l model -x -d Model
$c -n '__fish_seen_subcommand_from submit' -s p -l priority -x -d '0 to 100, higher first'
$c -n '__fish_seen_subcommand_from submit' -s C -l workspace -x -a '(__fish_complete_directories)' -d 'Directory of the agent'
$c -n '__fish_seen_subcommand_from submit' -s l -l label -x -d Label
$c -n '__fish_seen_subcommand_from submit' -l metadata -x -d Metadata
$c -n '__fish_seen_subcommand_from submit' -l capability -x -d 'Capability of its agent'
$c -n '__fish_seen_subcommand_from submit' -s t -l timeout -x -d 'End an attempt after'
$c -n '__fish_seen_subcommand_from submit' -l not-before -x -d 'Hold it until'
$c -n '__fish_seen_subcommand_from submit' -l max-attempts -x -d Attempts
$c -n '__fish_seen_subcommand_from submit' -l backoff -x -d 'Pause before the second attempt'
$c -n '__fish_seen_subcommand_from submit' -l idempotency-key -x -d 'The same key makes one task'
$c -n '__fish_seen_subcommand_from submit' -s f -l file -r -F -d 'Read the prompt from'
$c -n '__fish_seen_subcommand_from submit' -s w -l wait -d 'Wait, print the result'
$c -n '__fish_seen_subcommand_from submit' -s F -l follow -d 'Print what the agent says'
$c -n '__fish_seen_subcommand_from submit follow' -l patience -x -d 'How long a router that is gone is waited for'

$c -n '__fish_seen_subcommand_from get follow cancel' -a '(__agent_routerctl_column list)' -d Task
$c -n '__fish_seen_subcommand_from get' -s t -l transcript -d 'All that was said and done'
$c -n '__fish_seen_subcommand_from get' -s p -l prompt -d 'The prompt, too'
$c -n '__fish_seen_subcommand_from get' -s r -l result -d "The result's text alone"

$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key' -s s -l state -x -a 'queued delayed running succeeded failed cancelled timed_out dead' -d 'Only in this state'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key' -s a -l agent -x -a '(__agent_routerctl_column agents)' -d 'Only of this agent'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key' -s l -l label -x -d 'Only with this label'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key' -s n -l limit -x -d 'At most so many'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key' -s A -l all -d All

$c -n '__fish_seen_subcommand_from key; and not __fish_seen_subcommand_from create list revoke' -a 'create list revoke'
$c -n '__agent_routerctl_key create' -s n -l name -x -d 'Name of the key'
$c -n '__agent_routerctl_key create' -s r -l role -x -a 'submitter admin' -d Role
$c -n '__agent_routerctl_key create' -l run-as -x -a '(__fish_complete_users)' -d 'Unix user of its tasks'
$c -n '__agent_routerctl_key revoke' -a '(__agent_routerctl_column key list)' -d Key
