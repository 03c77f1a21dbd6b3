// The Kueue whose CRDs ../kueue.py applies: the version moves here, then `go mod download`.
module tuneloop/tests/cluster/kueue

go 1.26.0

require sigs.k8s.io/kueue v0.19.2
