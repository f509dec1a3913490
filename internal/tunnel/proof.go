package tunnel

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

// FeatureResume is what an agent offers that can resume links and have several.
const FeatureResume = "resume"

// keySize is the size of a resume key in bytes.
const keySize = 32

// NewResumeKey makes a key that nobody can guess.
func NewResumeKey() []byte {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	return key
}

// Proof is the Hello's resume_proof: HMAC-SHA256 by the link's resume key of all that
// the Hello says of the link. The attempt number in it, which grows, keeps a Hello that
// was overheard from being used a second time.
func Proof(key []byte, h *Hello) []byte {
	var b []byte
	for _, field := range [][]byte{[]byte("culvert/1 link"), h.GetSessionId(), h.GetLinkId(), []byte(h.GetAgentId())} {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(field))), field...)
	}
	for _, n := range []uint64{uint64(h.GetMode()), h.GetGeneration(), h.GetReceived(), h.GetAttempt()} { //nolint:gosec // not negative
		b = binary.BigEndian.AppendUint64(b, n)
	}
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(b)
	return mac.Sum(nil)
}

// Proven reports whether a Hello proves that its sender has the key.
func Proven(key []byte, h *Hello) bool { return hmac.Equal(h.GetResumeProof(), Proof(key, h)) }
