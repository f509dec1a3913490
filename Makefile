# Everything a developer runs. Tools are built from tools/go.mod into bin/.

GO ?= go
TOOLS := -C tools build -mod=mod -o $(CURDIR)/bin/

.PHONY: build test check lint race fuzz generate bench-connect bench-yamux bench-tunnel vulncheck clean

build: ## the binary, in bin/
	$(GO) build -trimpath -o bin/culvert ./cmd/culvert

# Never from the cache: it does not know of what subprocesses read, the end-to-end
# tests' binary among it.
test: ## install what tests need, run them all
	./test/install-deps
	$(GO) test -count=1 -timeout 20m ./...

check: lint race fuzz vulncheck ## what CI runs besides make test

lint: bin/golangci-lint
	$(GO) vet ./...
	bin/golangci-lint run ./...
	shellcheck test/install-deps test/fuzz-smoke .ci/run

race: ## the tests, end-to-end ones among them, under the race detector
	CULVERT_TEST_RACE=1 $(GO) test -race -count=1 -timeout 20m ./...

fuzz: ## every fuzz target for a moment
	./test/fuzz-smoke

vulncheck: bin/govulncheck ## known vulnerabilities, where their database is reachable
	@timeout 60 bin/govulncheck ./... || { \
		status=$$?; [ $$status -eq 3 ] && exit 3; \
		echo "govulncheck skipped: its database can't be reached"; }

generate: bin/protoc-gen-go ## Go code of the wire messages; needs protoc
	PATH="$(CURDIR)/bin:$$PATH" protoc --go_out=. --go_opt=paths=source_relative internal/tunnel/tunnel.proto

bench-connect: ## how long an agent takes to be of use
	$(GO) test -run '^$$' -bench Connect -benchtime 100x ./bench

bench-yamux: ## package yamux against the libraries and against its targets; root, for slow lines
	$(GO) run ./bench/yamux
	$(GO) test -run "^$$" -bench Idle -benchtime 1x ./bench/yamux

bench-tunnel: ## whole tunnels against frp, if frps and frpc are on PATH
	$(GO) run ./bench/tunnel

bin/golangci-lint: tools/go.mod
	$(GO) $(TOOLS) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/govulncheck: tools/go.mod
	$(GO) $(TOOLS) golang.org/x/vuln/cmd/govulncheck

bin/protoc-gen-go: tools/go.mod
	$(GO) $(TOOLS) google.golang.org/protobuf/cmd/protoc-gen-go

clean:
	rm -rf bin
