# Bash completion of `sports-lightning COMMAND …`: commands, config groups and keys. Load it with `source`.
_sports_lightning() {
    local line=${COMP_LINE:0:COMP_POINT} word choices
    local words=($line)
    word=${words[-1]}
    [[ $line == *[[:space:]] ]] && word=
    if (( ${#words[@]} < 2 )) || { (( ${#words[@]} == 2 )) && [[ -n $word ]]; }; then
        choices=$(sports-lightning --help | sed -n '/^Commands/,/^$/s/^  \([a-z]*\) .*/\1/p')
    else
        # Hydra completes a line of the form `APP OVERRIDES`.
        line="sports-lightning ${line#*"${words[1]}"}"
        choices=$(COMP_LINE=$line COMP_POINT=${#line} sports-lightning "${words[1]}" -sc query=bash 2>/dev/null)
    fi
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *[=./] ]] && COMPREPLY[0]+=" "
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _sports_lightning sports-lightning
