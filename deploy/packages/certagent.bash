# bash completion for certagent
_certagent() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
  case $before in
    --config | --certificate | --key) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    *)
      if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'enrol run once status version help' -- "$word")
      elif [ "${COMP_WORDS[1]}" = enrol ]; then
        mapfile -t COMPREPLY < <(compgen -W '--config --certificate --key' -- "$word")
      else
        mapfile -t COMPREPLY < <(compgen -W '--config --json' -- "$word")
      fi
      ;;
  esac
}
complete -o filenames -F _certagent certagent
