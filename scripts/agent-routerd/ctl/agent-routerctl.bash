# bash completion of agent-routerctl. Installed as /usr/share/bash-completion/completions/agent-routerctl.

# The words of a column of a table, for ids and names; nothing where there is no router.
_agent_routerctl_column() {
        agent-routerctl "${@:2}" 2>/dev/null </dev/null | awk -v column="$1" 'NR > 1 { print $column }'
}

_agent_routerctl() {
        local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb='' word='' skip=0 i
        local common='--json --socket --url --key-file --help'
        local verbs='submit get list cancel retry batch follow key events limit group drain resume reload usage status agent agents doctor'
        local kinds='global agent principal group'
        local states='queued delayed blocked running succeeded failed cancelled timed_out expired dead'
        COMPREPLY=()

        # The verb: the first word that is no option, and no option's value.
        for ((i = 1; i < COMP_CWORD; i++)); do
                word=${COMP_WORDS[i]}
                if ((skip)); then skip=0; continue; fi
                case $word in
                        --socket|--url|--key-file) skip=1 ;;
                        -*) ;;
                        *) if [[ $verb ]]; then verb="$verb $word"; break; fi
                           verb=$word
                           case $verb in key|batch|limit|group|agent) ;; *) break ;; esac ;;
                esac
        done

        case $prev in
                --socket|--key-file|--file|-f) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
                --workspace|-C) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
                --agent|-a) mapfile -t COMPREPLY < <(compgen -W "$(_agent_routerctl_column 1 agents)" -- "$cur"); return ;;
                --state|-s) mapfile -t COMPREPLY < <(compgen -W "$states" -- "$cur"); return ;;
                --role|-r) if [[ $verb == 'key create' ]]; then
                                   mapfile -t COMPREPLY < <(compgen -W 'submitter admin' -- "$cur"); return
                           fi ;;
                --select) mapfile -t COMPREPLY < <(compgen -W 'all first' -- "$cur"); return ;;
                --on) mapfile -t COMPREPLY < <(compgen -W 'success finish failure' -- "$cur"); return ;;
                --on-unmet) mapfile -t COMPREPLY < <(compgen -W 'cancel run' -- "$cur"); return ;;
                --on-denied) mapfile -t COMPREPLY < <(compgen -W 'reject refuse_all' -- "$cur"); return ;;
                --after) if [[ $verb == submit ]]; then
                                 mapfile -t COMPREPLY < <(compgen -W "$(_agent_routerctl_column 1 list)" -- "$cur"); return
                         fi ;;
                --group|-g) mapfile -t COMPREPLY < <(compgen -W "$(_agent_routerctl_column 2 group list)" -- "$cur"); return ;;
                --batch) mapfile -t COMPREPLY < <(compgen -W "$(_agent_routerctl_column 1 batch list)" -- "$cur"); return ;;
                --by|-b) mapfile -t COMPREPLY < <(compgen -W 'principal agent batch day' -- "$cur"); return ;;
                --run-as) mapfile -t COMPREPLY < <(compgen -u -- "$cur"); return ;;
        esac

        local words=''
        case $verb in
                '') words="$verbs $common --version" ;;
                submit) words="--agent --agents --select --group --deadline --gpus --cpus --memory --after --on --on-unmet
                               --max-tokens --max-cost-usd --model --priority --workspace --label --metadata --capability --timeout --not-before
                               --max-attempts --backoff --idempotency-key --file --wait --follow --patience $common" ;;
                get) words="--transcript --prompt --result $common"
                     [[ $cur == -* ]] || words+=" $(_agent_routerctl_column 1 list)" ;;
                list) words="--state --agent --group --batch --label --limit --all $common" ;;
                cancel) words="--all --group --state --agent --label --yes $common"
                        [[ $cur == -* ]] || words+=" $(_agent_routerctl_column 1 list --state queued; _agent_routerctl_column 1 list --state running)" ;;
                retry) words=$common
                       [[ $cur == -* ]] || words+=" $(_agent_routerctl_column 1 list --state dead; _agent_routerctl_column 1 list --state failed)" ;;
                batch) words="submit list show cancel retry $common" ;;
                'batch submit') words="--metadata --max-tokens --max-cost-usd --on-denied --idempotency-key --wait --no-wait --patience
                                       $common"
                                [[ $cur == -* ]] || { mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return; } ;;
                'batch list') words="--limit $common" ;;
                'batch show'|'batch cancel'|'batch retry') words=$common
                             [[ $cur == -* ]] || words+=" $(_agent_routerctl_column 1 batch list)" ;;
                follow) words="--patience $common"
                        [[ $cur == -* ]] || words+=" $(_agent_routerctl_column 1 list)" ;;
                events) words="--after --patience $common" ;;
                limit) words="list set unset $common" ;;
                'limit list') words="$kinds $common" ;;
                'limit set') words="--running --queued --weight --max-tokens-day --max-cost-usd-day --pause --resume $common"
                             [[ $cur == -* ]] || words+=" $kinds $(_agent_routerctl_column 2 limit list)" ;;
                'limit unset') words=$common
                               [[ $cur == -* ]] || words+=" $kinds $(_agent_routerctl_column 2 limit list)" ;;
                group) words="list set pause resume $common" ;;
                'group set') words="--running --queued $common"
                             [[ $cur == -* ]] || words+=" $(_agent_routerctl_column 2 group list)" ;;
                'group pause'|'group resume') words=$common
                             [[ $cur == -* ]] || words+=" $(_agent_routerctl_column 2 group list)" ;;
                drain) words="--wait --deadline $common" ;;
                usage) words="--by --from --to --csv $common" ;;
                agent) words="list reset $common" ;;
                key) words="create list revoke $common" ;;
                'key create') words="--name --role --run-as $common" ;;
                'key revoke') words=$common
                              [[ $cur == -* ]] || words+=" $(_agent_routerctl_column 1 key list)" ;;
                *) words=$common ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _agent_routerctl agent-routerctl
