# The laboratory's resource policy, in force until an administrator uploads another: each trusted node
# gets the resources whose second path segment is its own id, and nothing else.
package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	cpu := input.submods.cpu0
	cpu["ear.status"] == "affirming"
	count(data["resource-path"]) == 3
	data["resource-path"][1] == cpu["sheepfold.node"]
}
