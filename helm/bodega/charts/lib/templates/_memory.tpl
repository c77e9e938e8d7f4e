{{/* Four fifths of a limit in Mi or Gi, as Go reads it. */}}
{{- define "lib.goMemory" -}}
{{- $mebibytes := ternary (mul 1024 (trimSuffix "Gi" . | int)) (trimSuffix "Mi" . | int) (hasSuffix "Gi" .) -}}
{{ div (mul 4 $mebibytes) 5 }}MiB
{{- end -}}
