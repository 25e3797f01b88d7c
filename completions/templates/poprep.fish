# fish completion for poprep. @NOTE@

# The command on the line so far goes to $__poprep_command, the value of --config to $__poprep_config.
function __poprep_parse
    set -l command ''
    set -l option ''
    set -g __poprep_config ''
    for word in (commandline -opc)[2..-1]
        if test -n "$option"
            test "$option" = --config; and set -g __poprep_config $word
            set option ''
            continue
        end
        if contains -- $word @TAKERS@
            set option $word
            continue
        end
        string match -q -- '--config=*' $word; and set -g __poprep_config (string replace -- --config= '' $word)
        switch "$command|$word"
@WALK@
        end
    end
    set -g __poprep_command $command
end

function __poprep_at
    __poprep_parse
    test "$__poprep_command" = "$argv[1]"
end

# The connectors of the configuration that is named, else of the one in use.
function __poprep_connectors
    __poprep_parse
    set -l file (string replace -r '^~' $HOME -- $__poprep_config)
    test -n "$file"; or set file $POPREP_CONFIG
    if test -z "$file"
        set -l base $HOME/.config
        set -q XDG_CONFIG_HOME; and set base $XDG_CONFIG_HOME
        for candidate in $base/poprep/poprep.toml "$HOME/Library/Application Support/poprep/poprep.toml"
            test -r $candidate; and set file $candidate; and break
        end
    end
    test -f "$file"; and test -r "$file"; or return 0
    sed -nE -e 's/^[[:space:]]*\[connector\.([A-Za-z0-9_-]+).*/\1/p' \
        -e 's/^[[:space:]]*\[connector\."([A-Za-z0-9._-]+)".*/\1/p' $file | sort -u
end

complete -c poprep -f
@COMPLETE@
