import { type Setting, settings } from './platform/config.ts'

/** docs/settings.md, the reference of every setting, from the table that the reader uses. */
export function settingsPage(): string {
  const rows = Object.entries<Setting>(settings).map(([name, setting]) => {
    const absent =
      setting.default === undefined
        ? setting.optional
          ? 'none'
          : '**required**'
        : `\`${setting.default || '(empty)'}\``
    const cells = [
      `\`${name}\``,
      setting.type.name,
      absent,
      setting.secret ? 'yes' : '',
      setting.for.join(', '),
      setting.help,
    ]
    return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  })
  return `# Settings

Each is read from the file \`$SECRETS_DIR/NAME\` (default \`/secrets/NAME\`) where there is one, else from the environment.
A process that finds a fault names all of them and exits with code 78.

| name | type | default | secret | read by | what it is |
|---|---|---|---|---|---|
${rows.join('\n')}

\`ROLE\` and what the edge reads come from the environment only, but for the edge's certificate, the files \`TLS_CERT\` and
\`TLS_KEY\`, with which it needs \`PUBLIC_URL\` too. The edge also reads \`EDGE_LISTEN\`, \`EDGE_TLS_LISTEN\`, \`EDGE_WORKERS\`,
\`EDGE_RESOLVER\`, the four \`<ROLE>_UPSTREAM\` addresses and the limits per address \`EDGE_SIGN_IN_RATE\`, \`EDGE_SIGN_IN_BURST\`,
\`EDGE_MAIL_RATE\`, \`EDGE_MAIL_BURST\`, \`EDGE_PICTURE_RATE\`, \`EDGE_PICTURE_BURST\`, \`EDGE_UPLOADS\` (at once); see \`src/edge/render.sh\`.

What a target has no line for is set by \`roles.<role>.extraEnv\` or \`edge.extraEnv\` (Helm), a patch of the Deployment's \`env\`
(Kustomize) or an override file (Compose).
`
}
