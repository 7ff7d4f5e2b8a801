# fish completion of agent-routerctl. Installed as /usr/share/fish/vendor_completions.d/agent-routerctl.fish.

# The words of the first column of a table, for ids and names; nothing where there is no router.
function __agent_routerctl_column
    agent-routerctl $argv 2>/dev/null </dev/null | awk 'NR > 1 { print $1 }'
end

function __agent_routerctl_key
    __fish_seen_subcommand_from key; and __fish_seen_subcommand_from $argv
end

# The verb's two words, such as `limit set`.
function __agent_routerctl_words
    set -l words (commandline -opc | string match -v -- '-*')
    test (count $words) -ge 3; and test $words[2] = $argv[1]; and contains $words[3] $argv[2..]
end

# The first word alone.
function __agent_routerctl_first
    set -l words (commandline -opc | string match -v -- '-*')
    test (count $words) -eq 2; and test $words[2] = $argv[1]
end

# The first word, whatever follows.
function __agent_routerctl_verb
    set -l words (commandline -opc | string match -v -- '-*')
    test (count $words) -ge 2; and test $words[2] = $argv[1]
end

function __agent_routerctl_groups
    agent-routerctl group list 2>/dev/null </dev/null | awk 'NR > 1 { print $2 }'
end

set -l verbs submit get list cancel retry batch follow key events limit group drain resume reload usage status agent agents doctor
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
$c -n "not __fish_seen_subcommand_from $verbs" -a retry -d 'Run tasks again'
$c -n "not __fish_seen_subcommand_from $verbs" -a batch -d 'Submit, list, show, cancel and retry batches'
$c -n "not __fish_seen_subcommand_from $verbs" -a follow -d "Print what a task's agent says"
$c -n "not __fish_seen_subcommand_from $verbs" -a key -d 'Make, list and revoke API keys'
$c -n "not __fish_seen_subcommand_from $verbs" -a events -d 'Print what happens to all tasks'
$c -n "not __fish_seen_subcommand_from $verbs" -a limit -d 'List and set limits'
$c -n "not __fish_seen_subcommand_from $verbs" -a group -d 'List, set, pause and resume groups'
$c -n "not __fish_seen_subcommand_from $verbs" -a drain -d 'Start nothing more'
$c -n "not __fish_seen_subcommand_from $verbs" -a resume -d 'Start tasks again'
$c -n "not __fish_seen_subcommand_from $verbs" -a reload -d 'Read the configuration again'
$c -n "not __fish_seen_subcommand_from $verbs" -a usage -d 'Show tokens and money'
$c -n "not __fish_seen_subcommand_from $verbs" -a agent -d 'List the agents'
$c -n "not __fish_seen_subcommand_from $verbs" -a status -d 'Show the router'
$c -n "not __fish_seen_subcommand_from $verbs" -a agents -d 'List the agents'
$c -n "not __fish_seen_subcommand_from $verbs" -a doctor -d 'Check this machine'

$c -n '__agent_routerctl_verb submit' -s a -l agent -x -a '(__agent_routerctl_column agents)' -d 'Agent to run it'
$c -n '__agent_routerctl_verb submit' -l agents -x -d 'Several agents, with commas between'
$c -n '__agent_routerctl_verb submit' -l select -x -a 'all first' -d 'Which results are wanted'
$c -n '__agent_routerctl_verb submit' -s g -l group -x -a '(__agent_routerctl_groups)' -d 'Group whose limit it shares'
$c -n '__agent_routerctl_verb submit' -l deadline -x -d 'Give it up then'
$c -n '__agent_routerctl_verb submit' -l gpus -x -d GPUs
$c -n '__agent_routerctl_verb submit' -l cpus -x -d CPUs
$c -n '__agent_routerctl_verb submit' -l memory -x -d Memory
$c -n '__agent_routerctl_verb submit' -l after -x -a '(__agent_routerctl_column list)' -d 'Wait for this task'
$c -n '__agent_routerctl_verb submit' -l on -x -a 'success finish failure' -d 'How they must end'
$c -n '__agent_routerctl_verb submit' -l on-unmet -x -a 'cancel run' -d 'Where they end otherwise'
$c -n '__agent_routerctl_verb submit' -l max-tokens -x -d Tokens
$c -n '__agent_routerctl_verb submit' -l max-cost-usd -x -d Dollars
$c -n '__agent_routerctl_verb submit' -s m -l model -x -d Model
$c -n '__agent_routerctl_verb submit' -s p -l priority -x -d '0 to 100, higher first'
$c -n '__agent_routerctl_verb submit' -s C -l workspace -x -a '(__fish_complete_directories)' -d 'Directory of the agent'
$c -n '__agent_routerctl_verb submit' -s l -l label -x -d Label
$c -n '__agent_routerctl_verb submit' -l metadata -x -d Metadata
$c -n '__agent_routerctl_verb submit' -l capability -x -d 'Capability of its agent'
$c -n '__agent_routerctl_verb submit' -s t -l timeout -x -d 'End an attempt after'
$c -n '__agent_routerctl_verb submit' -l not-before -x -d 'Hold it until'
$c -n '__agent_routerctl_verb submit' -l max-attempts -x -d Attempts
$c -n '__agent_routerctl_verb submit' -l backoff -x -d 'Pause before the second attempt'
$c -n '__agent_routerctl_verb submit' -l idempotency-key -x -d 'The same key makes one task'
$c -n '__agent_routerctl_verb submit' -s f -l file -r -F -d 'Read the prompt from'
$c -n '__agent_routerctl_verb submit' -s w -l wait -d 'Wait, print the result'
$c -n '__agent_routerctl_verb submit' -s F -l follow -d 'Print what the agent says'
$c -n '__fish_seen_subcommand_from submit follow' -l patience -x -d 'How long a router that is gone is waited for'

$c -n '__agent_routerctl_verb cancel' -s A -l all -d 'All that have not ended'
$c -n '__agent_routerctl_verb cancel' -s g -l group -x -a '(__agent_routerctl_groups)' -d 'Those of this group'
$c -n '__agent_routerctl_verb cancel' -s s -l state -x -a 'queued delayed blocked running' -d 'Those in this state'
$c -n '__agent_routerctl_verb cancel' -s a -l agent -x -a '(__agent_routerctl_column agents)' -d 'Those of this agent'
$c -n '__agent_routerctl_verb cancel' -s l -l label -x -d 'Those with this label'
$c -n '__agent_routerctl_verb cancel' -s y -l yes -d 'Do not ask'
$c -n '__agent_routerctl_verb retry' -a '(__agent_routerctl_column list)' -d Task
$c -n '__agent_routerctl_first batch' -a 'submit list show cancel retry'
$c -n '__agent_routerctl_words batch submit' -F
$c -n '__agent_routerctl_words batch submit' -l metadata -x -d Metadata
$c -n '__agent_routerctl_words batch submit' -l max-tokens -x -d 'Tokens of all'
$c -n '__agent_routerctl_words batch submit' -l max-cost-usd -x -d 'Dollars of all'
$c -n '__agent_routerctl_words batch submit' -l on-denied -x -a 'reject refuse_all' -d 'A denied task'
$c -n '__agent_routerctl_words batch submit' -l idempotency-key -x -d 'The same key makes one batch'
$c -n '__agent_routerctl_words batch submit' -s w -l wait -d 'Wait for the end of all'
$c -n '__agent_routerctl_words batch submit' -l no-wait -d 'Return at once'
$c -n '__agent_routerctl_words batch submit' -l patience -x -d 'How long a router that is gone is waited for'
$c -n '__agent_routerctl_words batch list' -s n -l limit -x -d 'At most so many'
$c -n '__agent_routerctl_words batch show cancel retry' -a '(__agent_routerctl_column batch list)' -d Batch
$c -n '__fish_seen_subcommand_from get follow cancel; and not __fish_seen_subcommand_from batch' -a '(__agent_routerctl_column list)' -d Task
$c -n '__fish_seen_subcommand_from get' -s t -l transcript -d 'All that was said and done'
$c -n '__fish_seen_subcommand_from get' -s p -l prompt -d 'The prompt, too'
$c -n '__fish_seen_subcommand_from get' -s r -l result -d "The result's text alone"

$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key batch limit group agent' -s s -l state -x -a 'queued delayed blocked running succeeded failed cancelled timed_out expired dead' -d 'Only in this state'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key batch limit group agent' -s a -l agent -x -a '(__agent_routerctl_column agents)' -d 'Only of this agent'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key batch limit group agent' -s g -l group -x -a '(__agent_routerctl_groups)' -d 'Only of this group'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key batch limit group agent' -s b -l batch -x -a '(__agent_routerctl_column batch list)' -d 'Only of this batch'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key batch limit group agent' -s l -l label -x -d 'Only with this label'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key batch limit group agent' -s n -l limit -x -d 'At most so many'
$c -n '__fish_seen_subcommand_from list; and not __fish_seen_subcommand_from key batch limit group agent' -s A -l all -d All

$c -n '__fish_seen_subcommand_from key; and not __fish_seen_subcommand_from create list revoke' -a 'create list revoke'
$c -n '__agent_routerctl_key create' -s n -l name -x -d 'Name of the key'
$c -n '__agent_routerctl_key create' -s r -l role -x -a 'submitter admin' -d Role
$c -n '__agent_routerctl_key create' -l run-as -x -a '(__fish_complete_users)' -d 'Unix user of its tasks'
$c -n '__agent_routerctl_key revoke' -a '(__agent_routerctl_column key list)' -d Key

$c -n '__fish_seen_subcommand_from events' -l after -x -d 'Begin after this event'
$c -n '__fish_seen_subcommand_from events' -l patience -x -d 'How long a router that is gone is waited for'
$c -n '__agent_routerctl_first agent' -a 'list reset'
$c -n '__agent_routerctl_first limit' -a 'list set unset'
$c -n '__agent_routerctl_words limit list set unset' -a 'global agent principal group'
$c -n '__agent_routerctl_words limit set; or __agent_routerctl_words group set' -s r -l running -x -d 'So many run at once'
$c -n '__agent_routerctl_words limit set; or __agent_routerctl_words group set' -s q -l queued -x -d 'So many wait and run'
$c -n '__agent_routerctl_words limit set' -s w -l weight -x -d "A principal's share"
$c -n '__agent_routerctl_words limit set' -l max-tokens-day -x -d 'Tokens of a day'
$c -n '__agent_routerctl_words limit set' -l max-cost-usd-day -x -d 'Dollars of a day'
$c -n '__agent_routerctl_words limit set' -s p -l pause -d 'Start nothing of it'
$c -n '__agent_routerctl_words limit set' -l resume -d 'End the pause'
$c -n '__agent_routerctl_first group' -a 'list set pause resume'
$c -n '__agent_routerctl_words group set pause resume' -a '(__agent_routerctl_groups)' -d Group
$c -n '__fish_seen_subcommand_from drain' -s w -l wait -d 'Wait until nothing runs'
$c -n '__fish_seen_subcommand_from drain' -s d -l deadline -x -d 'Wait for so long at most'
$c -n '__fish_seen_subcommand_from usage' -s b -l by -x -a 'principal agent batch day' -d 'Summed by'
$c -n '__fish_seen_subcommand_from usage' -l from -x -d 'First day'
$c -n '__fish_seen_subcommand_from usage' -l to -x -d 'Last day'
$c -n '__fish_seen_subcommand_from usage' -l csv -d 'Comma-separated values'
$c -n '__agent_routerctl_first agent' -a list
