# Sheepfold resource policy. Constant text. A node reads what lies under its own name, and nobody else does:
#   default/<node>/<volume>    disk secrets, for a node that is still in its initramfs
# Everything else is denied. Other repositories need a rule of their own.
#
# The input is the payload of an attestation token; members named sheepfold.* were put there by our
# attestation policy. That rests on the KBS accepting tokens of its own signer only.
package policy

import rego.v1

repository := "default"

default allow := false

allow if {
	data.plugin == "resource"
	count(data["resource-path"]) == 3
	data["resource-path"][0] == repository
	data["resource-path"][1] == node
	trusted
	complete
	identified
}

# Each piece of evidence stands for itself: one bad piece spoils the others.
trusted if {
	every submod in input.submods {
		submod["ear.status"] == "affirming"
	}
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
