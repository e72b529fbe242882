# bash completion for vmamba-cli. Commands and options come from the program's own --help, so nothing is listed twice.

_vmamba_cli_words() { # the words of `vmamba-cli [COMMAND] --help` in the column where commands and options stand
  "$1" "${@:2}" --help 2>/dev/null | awk '
    /^  -/ { n = split($1, names, ","); for (i = 1; i <= n; ++i) print names[i] }
    /^Subcommands:/ { commands = 1; next }
    commands && /^  [a-z]/ { print $1 }'
}

_vmamba_cli() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} program=${COMP_WORDS[0]} command='' word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    [[ $word == -* || $word == = ]] || { command=$word && break; }
  done
  COMPREPLY=()
  case $prev in
    --device) mapfile -t COMPREPLY < <(compgen -W "auto cpu cuda cuda:0" -- "$cur") ;;
    --dtype) mapfile -t COMPREPLY < <(compgen -W "auto float32 tf32 float16 bfloat16" -- "$cur") ;;
    --selective-scan-backend) mapfile -t COMPREPLY < <(compgen -W "oflex mamba torch null" -- "$cur") ;;
    --forward-core-version) mapfile -t COMPREPLY < <(compgen -W "v0 v1 null" -- "$cur") ;;
    --log-level) mapfile -t COMPREPLY < <(compgen -W "trace debug info warning error off" -- "$cur") ;;
    --format)
      local formats='text json jsonl csv'
      [[ $command == bench ]] && formats='table json csv md'
      [[ $command == check-equal || $command == devices ]] && formats='text json'
      [[ $command == info ]] && formats='text json config'
      mapfile -t COMPREPLY < <(compgen -W "$formats" -- "$cur")
      ;;
    *)
      if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_vmamba_cli_words "$program" ${command:+"$command"})" -- "$cur")
      elif [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_vmamba_cli_words "$program" | grep -v '^-')" -- "$cur")
      else
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        compopt -o filenames 2>/dev/null
      fi
      ;;
  esac
}
complete -F _vmamba_cli vmamba-cli
