# fish completion for vmamba-cli: the program itself says what may follow.

function __vmamba_cli_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] --complete $words[2..-1] 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c vmamba-cli -f -a '(__vmamba_cli_complete)'
