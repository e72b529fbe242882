# bash completion for vmamba-cli. Commands, options and values are read from the program's --help.

_vmamba_cli_words() { # the words of `vmamba-cli [COMMAND] --help` in the column of commands and options
  "$1" "${@:2}" --help 2>/dev/null | awk '
    /^  -/ { n = split($1, names, ","); for (i = 1; i <= n; ++i) print names[i] }
    /^Subcommands:/ { commands = 1; next }
    commands && /^  [a-z]/ { print $1 }'
}

_vmamba_cli_values() { # the words of the list "A, B or C" that the program's or COMMAND's --help has for option $2
  { "$1" ${3:+"$3"} --help; "$1" --help; } 2>/dev/null | awk -v option="$2" '
    /^  [^ ]/ {
      on = 0
      n = split($1, names, ",")
      for (i = 1; i <= n; ++i) on += names[i] == option
      $0 = substr($0, 29) # the description starts in column 31, or in the lines below
      if (!/^  /) next
    }
    /^$/ || /^[^ ]/ { on = 0 }
    on && !done { text = text " " $0 }
    !on && text { done = 1 }
    END {
      gsub(/\([^)]*\)/, "", text)
      sub(/.*: /, "", text)
      n = split(text, words, /,| or /)
      for (i = 1; i <= n; ++i) { gsub(/ /, "", words[i]); sub(/:N$/, ":0", words[i]); print words[i] }
    }'
}

_vmamba_cli() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} program=${COMP_WORDS[0]} command='' word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    [[ $word == -* || $word == = ]] || { command=$word && break; }
  done
  COMPREPLY=()
  case $prev in
    --device | --dtype | --selective-scan-backend | --forward-core-version | --log-level | --format | --decode)
      mapfile -t COMPREPLY < <(compgen -W "$(_vmamba_cli_values "$program" "$prev" "$command")" -- "$cur")
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
