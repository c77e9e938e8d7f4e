{{/* What every part is named after. */}}
{{- define "lib.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-bodega" .Release.Name) (contains "bodega" .Release.Name) -}}
{{- $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{/* Selector of a part: (list $ component) */}}
{{- define "lib.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: bodega
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/part-of: bodega
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Labels of an object: (list $ component); an empty component is none. */}}
{{- define "lib.labels" -}}
{{ include "lib.selector" . }}
{{- $root := index . 0 }}
app.kubernetes.io/version: {{ $root.Chart.Version | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{/* (list $ image): registry, repository, and the digest, else the tag, else the version of the chart. */}}
{{- define "lib.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- $tag := $image.tag | default $root.Chart.AppVersion -}}
{{- if and $image.repository (not $tag) (not $image.digest) }}{{ fail (printf "The image %s has neither a tag nor a digest" $image.repository) }}{{ end -}}
{{- $registry := $root.Values.global.imageRegistry -}}
{{- $first := first (splitList "/" $image.repository) -}}
{{- $own := and (contains "/" $image.repository) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- if and $registry (not $own) }}{{ trimSuffix "/" $registry }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $tag }}{{ end }}
{{- end -}}

{{/* image and imagePullPolicy: (list $ image) */}}
{{- define "lib.from" -}}
image: {{ include "lib.image" . | quote }}
imagePullPolicy: {{ (index . 0).Values.global.imagePullPolicy }}
{{- end -}}

{{/* Who a part's pods are to the cluster, which they never ask: (list $ component) */}}
{{- define "lib.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "lib.fullname" (index . 0) }}-{{ index . 1 }}
  labels: {{- include "lib.labels" . | nindent 4 }}
automountServiceAccountToken: false
{{- end -}}

{{/* What every pod says of itself: (list $ uid component) */}}
{{- define "lib.pod" -}}
{{- $root := index . 0 -}}
{{- $uid := index . 1 | int -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $uid }}
  runAsGroup: {{ $uid }}
  fsGroup: {{ $uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with $root.Values.global }}
{{- if .imagePullSecrets }}
imagePullSecrets:
{{- range .imagePullSecrets }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .spread (index $ 2) }}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "lib.selector" (list $root (index $ 2)) | nindent 8 }}
    # Counted apart for each generation, so that a roll ends as even as it began.
    matchLabelKeys: [controller-revision-hash, pod-template-hash]
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "lib.container" -}}
securityContext:
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: { drop: [ALL] }
{{- end -}}

{{/* Requests and limits, without those that are null: Helm leaves them where a chart of ours has no such key, or is a part. */}}
{{- define "lib.resources" -}}
{{- $resources := deepCopy (. | default dict) -}}
{{- range $quantities := $resources }}
{{- range $what, $quantity := deepCopy $quantities }}
{{- if kindIs "invalid" $quantity }}{{ $_ := unset $quantities $what }}{{ end }}
{{- end }}
{{- end }}
{{- toYaml $resources -}}
{{- end -}}

{{/* startup, readiness and liveness by HTTP:
     (dict "port" "startupPath" "readyPath" "livePath" "every" "startupSeconds" "liveEvery" "liveFailures" "timeout"), and
     for liveness by a command instead "liveScript" "liveTimeout" */}}
{{- define "lib.probes" -}}
startupProbe:
  httpGet: { path: {{ .startupPath | quote }}, port: {{ .port }} }
  periodSeconds: 1
  timeoutSeconds: {{ .timeout }}
  failureThreshold: {{ .startupSeconds }}
readinessProbe:
  httpGet: { path: {{ .readyPath | quote }}, port: {{ .port }} }
  periodSeconds: {{ .every }}
  timeoutSeconds: {{ .timeout }}
  failureThreshold: 3
livenessProbe:
  {{- with .liveScript }}
  exec: { command: [sh, -c, {{ . | quote }}] }
  {{- else }}
  httpGet: { path: {{ .livePath | quote }}, port: {{ .port }} }
  {{- end }}
  periodSeconds: {{ .liveEvery }}
  timeoutSeconds: {{ .liveTimeout | default .timeout }}
  failureThreshold: {{ .liveFailures }}
{{- end -}}

{{/* A map of names and values as env, each name once and in order. */}}
{{- define "lib.env" -}}
{{- range $name, $value := . }}
- { name: {{ $name }}, value: {{ $value | toString | quote }} }
{{- end }}
{{- end -}}

{{/* Keys that are mounted under their own name. */}}
{{- define "lib.items" -}}
{{- range . }}
- { key: {{ . }}, path: {{ . }} }
{{- end }}
{{- end -}}

{{/* volumeClaimTemplates: (list $ storage component), whole, so that a second apply finds no difference. */}}
{{- define "lib.claim" -}}
{{- $root := index . 0 -}}
volumeClaimTemplates:
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata:
      name: data
      labels: {{- include "lib.selector" (list $root (index . 2)) | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      volumeMode: Filesystem
      {{- with $root.Values.global.storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources: { requests: { storage: {{ index . 1 }} } }
{{- end -}}
