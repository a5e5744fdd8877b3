#compdef certagent
_arguments \
  '1:command:(enrol run once status version help)' \
  '--config[the configuration]:file:_files' \
  '--certificate[enrol: the first certificate]:file:_files' \
  '--key[enrol: its key]:file:_files' \
  '--json[print JSON]'
