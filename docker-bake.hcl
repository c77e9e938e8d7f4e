# Both images for both architectures: `docker buildx bake` builds for this machine, `docker buildx bake release --push`
# for amd64 and arm64, with a list of what is inside (SBOM) and how it was built (provenance).
variable "REGISTRY" { default = "" }
variable "VERSION" { default = "0.1.0" }
variable "REVISION" { default = "unknown" }
variable "CREATED" { default = "" }

group "default" {
  targets = ["app", "edge"]
}
group "release" {
  targets = ["app-release", "edge-release"]
}

target "_common" {
  context = "."
  args = {
    VERSION  = VERSION
    REVISION = REVISION
    CREATED  = CREATED
  }
}
target "_release" {
  platforms = ["linux/amd64", "linux/arm64"]
  attest    = ["type=sbom", "type=provenance,mode=max"]
}

target "app" {
  inherits = ["_common"]
  target   = "app"
  tags     = ["${REGISTRY}bodega-app:${VERSION}"]
}
target "edge" {
  inherits = ["_common"]
  target   = "edge"
  tags     = ["${REGISTRY}bodega-edge:${VERSION}"]
}
target "app-release" {
  inherits = ["app", "_release"]
}
target "edge-release" {
  inherits = ["edge", "_release"]
}
