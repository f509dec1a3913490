package registry

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Random labels read like "calm-otter-42". They follow from the agent id and the
// endpoint's name at the agent, so an agent that comes back, also to a server that
// has lost its memory, gets the same one without anybody storing it.
func randomLabel(agentID string, s endpoint.Spec, try int) string {
	n := seed(agentID, s, try)
	adjective := adjectives[n%uint64(len(adjectives))]
	n /= uint64(len(adjectives))
	noun := nouns[n%uint64(len(nouns))]
	n /= uint64(len(nouns))
	return adjective + "-" + noun + "-" + strconv.FormatUint(n%1000, 10)
}

func seed(agentID string, s endpoint.Spec, try int) uint64 {
	sum := sha256.Sum256([]byte(strings.Join([]string{agentID, string(s.Kind), s.Name, strconv.Itoa(try)}, "\x00")))
	return binary.BigEndian.Uint64(sum[:8])
}

var adjectives = strings.Fields(`
agile amber ample azure bold brave brief bright brisk broad calm candid chief civil clean clear clever
cosy crisp dapper deep deft eager early easy epic even exact fair fancy fast fine firm fleet fluent fond
fresh frank full gentle glad golden good grand great green handy happy hardy honest humble ideal jolly
keen kind large late light lively local loyal lucky lunar major mellow merry mild modest neat new noble
novel open pale patient plain polite prime prompt proud pure quick quiet rapid rare ready regal rich
ripe robust round royal rural sage sharp shiny silent simple sleek smart smooth snug solar solid sound
spry stable steady still stout strong sturdy sunny super sure sweet swift tall tame tender tidy tiny
true upbeat urban vast vivid warm wise witty young zesty`)

var nouns = strings.Fields(`
acorn alder anchor apple arrow aspen badger bamboo barley basin bay beacon bear beaver birch bison
bluff bridge brook canal canyon cedar cliff cloud clover comet condor copper coral cove crane creek
cypress dale dawn deer delta dolphin dove dune eagle elk elm falcon fern ferry field finch fjord forest
fox garden gecko geyser glade glen goose grove gull harbor hare hawk hazel heron hill holly ibis inlet
iris island ivy jay juniper kestrel kiwi koala lagoon lake larch lark laurel lemur lily linden lion
llama lotus lynx magpie maple marlin marsh marten meadow mesa mint moon moose moss oak oasis ocean
olive orchid oriole osprey otter owl panda pebble pelican pine plover pond poplar prairie puffin quail
rabbit rain raven reef ridge river robin salmon seal shore sparrow spring spruce stork stream summit
swan swift thistle tiger trout tulip turtle valley walnut willow wolf wren yak zebra`)
