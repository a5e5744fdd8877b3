# fish completion for certagent
complete -c certagent -n __fish_use_subcommand -f -a 'enrol run once status version help'
complete -c certagent -l config -r -d 'the configuration'
complete -c certagent -n '__fish_seen_subcommand_from enrol' -l certificate -r -d 'the first certificate'
complete -c certagent -n '__fish_seen_subcommand_from enrol' -l key -r -d 'its key'
complete -c certagent -n '__fish_seen_subcommand_from run once status' -l json -d 'print JSON'
