# Sheepfold resource policy. Constant text. A node reads what lies under its own name, and nobody else does:
#   default/<node>/<volume>    disk secrets, for a node that is still in its initramfs
#   runtime/<node>/<name>      what the running system needs, also after the seal
# Everything else is denied. Other repositories need a rule of their own.
#
# The input is the payload of an attestation token; members named sheepfold.* were put there by our
# attestation policy. That rests on the KBS accepting tokens of its own signer only.
package policy

import rego.v1

disk_secrets := "default"

runtime := "runtime"

default allow := false

allow if {
	repository == disk_secrets
	every submod in input.submods {
		affirming(submod)
	}
	complete
	identified
}

# Also before the seal: who is not sealed yet can seal and ask again, so a refusal would keep nothing from anybody.
allow if {
	repository == runtime
	every submod in input.submods {
		running(submod)
	}
	complete
	identified
}

# Of a resource of the node's own.
repository := data["resource-path"][0] if {
	data.plugin == "resource"
	count(data["resource-path"]) == 3
	data["resource-path"][1] == node
}

# Each piece of evidence stands for itself: one bad piece spoils the others.
affirming(submod) if submod["ear.status"] == "affirming"

running(submod) if affirming(submod)

# Everything but the configuration is as it was in the initramfs, and of the configuration the attestation policy
# says that it lacks nothing but an unmoved register.
running(submod) if {
	submod["ear.status"] == "warning"
	submod["sheepfold.phase"] == "sealed"
	vector := submod["ear.trustworthiness-vector"]
	vector["instance-identity"] in {0, 2}
	vector.hardware == 2
	vector.executables == 3
}

# The evidence is of a kind that this cluster asks for. The primary piece comes first: in "snp+tpm" the
# processor's report is primary and covers the quote beside it. Both must be there, and nothing else.
complete if {
	others := sort([submod["sheepfold.tee"] |
		some name, submod in input.submods
		name != "cpu0"
	])
	count(others) == count(input.submods) - 1
	kind := concat("+", array.concat([primary["sheepfold.tee"]], others))
	kind in split(primary["sheepfold.evidence"], " ")
}

# All pieces that name a node name the same one.
node := name if {
	names := {submod["sheepfold.node"] | some submod in input.submods}
	count(names) == 1
	some name in names
}

# The name comes from where this cluster takes names from: the key of a TPM, ...
identified if {
	primary["sheepfold.identity"] == "ak"
	some submod in input.submods
	submod["sheepfold.tee"] == "tpm"
	submod["sheepfold.node"] == node
}

# ... or init-data, which only the primary piece can carry.
identified if {
	primary["sheepfold.identity"] == "init-data"
	primary["sheepfold.node"] == node
	primary["ear.veraison.annotated-evidence"].init_data_claims.uuid == node
}

primary := input.submods.cpu0
