# bash completion for vmamba-cli: the program itself says what may follow.

_vmamba_cli() {
  local line=${COMP_LINE:0:COMP_POINT} current=${COMP_WORDS[COMP_CWORD]} words candidate
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  # bash splits words at = and : too, and replaces only what comes after
  local before=${words[-1]}
  [[ $current == [=:] ]] && current=
  before=${before%"$current"}
  COMPREPLY=()
  while IFS=$'\t' read -r candidate _; do
    if [[ $candidate == :files ]]; then
      mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$current")
      compopt -o filenames 2>/dev/null
    else
      COMPREPLY+=("${candidate#"$before"}")
      [[ $candidate == *= ]] && compopt -o nospace 2>/dev/null
    fi
  done < <("${words[0]}" --complete "${words[@]:1}" 2>/dev/null)
}
complete -F _vmamba_cli vmamba-cli
