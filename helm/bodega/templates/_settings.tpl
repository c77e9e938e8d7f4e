{{- define "bodega.databaseUrl" -}}
{{- if .Values.pgo.enabled }}postgres://{{ include "lib.fullname" . }}-db-pgbouncer:5432/bodega
{{- else if .Values.postgres.enabled }}postgres://{{ include "lib.fullname" . }}-postgres:5432/bodega
{{- else }}{{ .Values.external.databaseUrl }}{{ end }}
{{- end -}}

{{- define "bodega.natsUrl" -}}
{{- if .Values.nats.enabled }}nats://{{ include "lib.fullname" . }}-nats:4222{{ else }}{{ .Values.external.natsUrl }}{{ end }}
{{- end -}}

{{- define "bodega.s3Url" -}}
{{- if .Values.objectstore.enabled }}http://{{ include "lib.fullname" . }}-objectstore:8333{{ else }}{{ .Values.external.s3Url }}{{ end }}
{{- end -}}

{{/* Every environment variable that a role may read, as JSON; roles.NAME.settings picks from it. */}}
{{- define "bodega.settings" -}}
{{- dict
  "PRODUCT_READ" .Values.settings.productRead
  "MAIL_FROM" .Values.settings.mailFrom
  "S3_URL" (include "bodega.s3Url" .)
  "S3_BUCKET" .Values.settings.s3Bucket
  "S3_REGION" .Values.settings.s3Region | toJson -}}
{{- end -}}

{{/* The environment of a role, as JSON: (list $ name role) */}}
{{- define "bodega.roleEnv" -}}
{{- $root := index . 0 }}{{ $name := index . 1 }}{{ $role := index . 2 -}}
{{- $env := dict
  "ROLE" $name
  "LOG_LEVEL" $root.Values.settings.logLevel
  "DATABASE_URL" (include "bodega.databaseUrl" $root)
  "NATS_BROKER_URL" (include "bodega.natsUrl" $root)
  "NATS_USER" $name
  "LISTEN_HOST" "0.0.0.0"
  "PUBLIC_URL" $root.Values.settings.publicUrl
  "DRAIN_DELAY" "10" -}}
{{- /* Ten of each role hold 180 connections for single statements (auth 4, products 2, orders 8, notifications 4) and at
  most 160 of these: fewer than the 400 that PostgreSQL takes. */}}
{{- if $root.Values.autoscaling.enabled }}{{ $_ := set $env "DATABASE_POOL" "4" }}{{ end -}}
{{- $settings := include "bodega.settings" $root | fromJson -}}
{{- range $role.settings }}{{ $_ := set $env . (get $settings .) }}{{ end -}}
{{- mergeOverwrite $env ($role.extraEnv | default dict) | toJson -}}
{{- end -}}

{{/* Where a login of the database is mounted from: (list $ database prefix pgoUser) */}}
{{- define "bodega.login" -}}
{{- $root := index . 0 }}{{ $database := index . 1 }}{{ $prefix := index . 2 }}{{ $user := index . 3 -}}
{{- if and $root.Values.pgo.enabled (not $database.secret) -}}
- secret:
    name: {{ include "lib.fullname" $root }}-db-pguser-{{ $user }}
    items:
      - { key: user, path: {{ $prefix }}DATABASE_USER }
      - { key: password, path: {{ $prefix }}DATABASE_PASSWORD }
      {{- if not $prefix }}
      - { key: pgbouncer-host, path: DATABASE_HOST }
      - { key: pgbouncer-port, path: DATABASE_PORT }
      {{- end }}
{{- else -}}
- secret:
    name: {{ $database.secret | default $root.Values.global.existingSecret }}
    items:
      - { key: {{ $database.userKey }}, path: {{ $prefix }}DATABASE_USER }
      - { key: {{ $database.passwordKey }}, path: {{ $prefix }}DATABASE_PASSWORD }
{{- end -}}
{{- end -}}

{{/* Private authorities: (list $ keys). The operator's database brings its own. A source without items would be the whole Secret. */}}
{{- define "bodega.authorities" -}}
{{- $root := index . 0 }}{{ $keys := index . 1 | default list -}}
{{- with ternary (without $keys "DATABASE_CA") $keys $root.Values.pgo.enabled -}}
- secret:
    name: {{ $root.Values.global.authoritiesSecret }}
    optional: true
    items: {{- include "lib.items" . | nindent 6 }}
{{- end }}
{{- if $root.Values.pgo.enabled }}
- secret:
    name: {{ include "lib.fullname" $root }}-db-cluster-cert
    items:
      - { key: ca.crt, path: DATABASE_CA }
{{- end }}
{{- end -}}
