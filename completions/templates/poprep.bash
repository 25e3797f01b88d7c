# bash completion for poprep. @NOTE@

# The connectors of the configuration that is named, else of the one in use.
_poprep_connectors() {
    local file=${1/#\~/$HOME} candidate
    file=${file:-${POPREP_CONFIG-}}
    if [[ -z $file ]]; then
        for candidate in "${XDG_CONFIG_HOME:-$HOME/.config}/poprep/poprep.toml" \
            "$HOME/Library/Application Support/poprep/poprep.toml" "${LOCALAPPDATA-}/poprep/poprep.toml"; do
            [[ -r $candidate ]] && file=$candidate && break
        done
    fi
    [[ -f $file && -r $file ]] || return 0
    sed -nE -e 's/^[[:space:]]*\[connector\.([A-Za-z0-9_-]+).*/\1/p' \
        -e 's/^[[:space:]]*\[connector\."([A-Za-z0-9._-]+)".*/\1/p' "$file" | sort -u
}

_poprep_words() {
    local word
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$1" -- "$cur")
}

_poprep_paths() {
    local path
    if [[ $1 == -d ]]; then compopt -o dirnames 2>/dev/null && return; else compopt -o default 2>/dev/null && return; fi
    while IFS= read -r path; do COMPREPLY+=("$path"); done < <(compgen "$1" -- "$cur")
}

_poprep() {
    local cur=${COMP_WORDS[COMP_CWORD]} word command='' option='' config='' options='' words='' index
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ -n $option ]]; then
            [[ $word == '=' ]] && continue
            [[ $option == --config ]] && config=$word
            option=''
            continue
        fi
        case "$command|$word" in
@WALK@
        esac
    done
    [[ $cur == '=' ]] && cur=''
    case "$command|$option" in
@VALUES@
    esac
    case $command in
@FINISH@
    esac
    [[ $cur == -* ]] && words=$options
    _poprep_words "$words"
}

complete -F _poprep poprep
