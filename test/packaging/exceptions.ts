export interface Exception {
  tool: 'kube-score' | 'checkov'
  check: string
  /** Objects for which it is accepted, as the tool names them; all, unless said. */
  objects?: RegExp
  because: string
}

/** What the linters of manifests find and the shop keeps. One that finds nothing any more fails the test. */
export const exceptions: Exception[] = [
  {
    tool: 'kube-score',
    check: 'container-image-pull-policy',
    because: 'Tags are versions and never move; Always would ask a registry at each start, and fail with it.',
  },
  { tool: 'checkov', check: 'CKV_K8S_15', because: 'The same, of Always.' },
  {
    tool: 'kube-score',
    check: 'container-security-context-user-group-id',
    objects: /bodega-(postgres|nats|objectstore|mail)$/,
    because: 'The users that these images have, and that own their files.',
  },
  {
    tool: 'checkov',
    check: 'CKV_K8S_40',
    objects: /bodega-(postgres|nats|objectstore|mail)\b/,
    because: 'The users that these images have, and that own their files.',
  },
  {
    tool: 'kube-score',
    check: 'pod-probes-identical',
    objects: /bodega-(edge|postgres|objectstore)$/,
    because: 'They have one answer to both questions; liveness is asked more seldom and given more failures.',
  },
  {
    tool: 'kube-score',
    check: 'deployment-has-host-podantiaffinity',
    because: 'topologySpreadConstraints spread them, over zones too.',
  },
  {
    tool: 'kube-score',
    check: 'statefulset-has-host-podantiaffinity',
    because: 'topologySpreadConstraints spread them, over zones too.',
  },
  {
    tool: 'kube-score',
    check: 'networkpolicy-targets-pod',
    objects: /bodega-db$/,
    because: 'Its pods are the operator’s, and not in the chart.',
  },
  {
    tool: 'kube-score',
    check: 'pod-networkpolicy',
    objects: /bodega-test$/,
    because: '`helm test` calls the edge as a stranger would, from outside of every policy.',
  },
  {
    tool: 'checkov',
    check: 'CKV_K8S_8',
    objects: /bodega-test$/,
    because: 'It ends after five requests.',
  },
  {
    tool: 'checkov',
    check: 'CKV_K8S_9',
    objects: /bodega-test$/,
    because: 'It ends after five requests.',
  },
  {
    tool: 'checkov',
    check: 'CKV_K8S_21',
    because: 'The namespace is said by who installs: helm --namespace.',
  },
  {
    tool: 'checkov',
    check: 'CKV_K8S_43',
    because: 'A digest is of the registry that an owner names; none is invented (image.digest).',
  },
]
