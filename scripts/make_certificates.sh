#!/bin/sh
# Makes the certificates of the TLS tests (tests/fixtures/tls): an authority and a server's certificate signed by it, another
# authority, and a self-signed certificate marked as an authority (what `openssl req -x509` makes). They hold for a hundred
# years, name localhost alone (the server's 127.0.0.1, too), and their keys are public: for tests only.
set -eu
cd "$(dirname "$0")/../tests/fixtures/tls"
key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }
authority() {
    key "$1.key"
    openssl req -x509 -new -key "$1.key" -out "$1.pem" -days 36500 -subj "/CN=$2" -addext keyUsage=keyCertSign
}
signed() {
    key "$1.key"
    printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\n' "$2" >extensions
    openssl req -new -key "$1.key" -subj "/CN=$1" -out request
    openssl x509 -req -in request -CA authority.pem -CAkey authority.key -CAcreateserial -extfile extensions -days 36500 \
        -out "$1.pem"
    rm -f request extensions authority.srl
}
authority authority "Test authority"
authority other "Another test authority"
signed server DNS:localhost,IP:127.0.0.1
key self-signed.key
openssl req -x509 -new -key self-signed.key -out self-signed.pem -days 36500 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost
# The authorities' own keys are needed no more.
rm authority.key other.key
