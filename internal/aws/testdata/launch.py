# Starts moto as a server whose certificate ids are what AWS's are: the SHA-256
# of the certificate's DER. moto_server itself hashes the PEM text.
import sys

from moto.core.config import default_user_config

default_user_config["iot"] = {"use_valid_cert": True}

from moto.server import main

main(sys.argv[1:])
