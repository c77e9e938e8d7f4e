# Two images from one tree: `app` (the four roles and migrate) and `edge` (nginx with the rules of src/edge).
# Base images are arguments, so that a mirror or a digest can take their place.
ARG NODE_IMAGE=node:24-slim
ARG NGINX_IMAGE=nginxinc/nginx-unprivileged:stable

# Production dependencies, less what only a compiler or a reader of them needs. npm runs on the building machine, for the
# processor that the image is for: nothing here is compiled, and npm under emulation takes minutes.
FROM --platform=$BUILDPLATFORM ${NODE_IMAGE} AS dependencies
ARG TARGETARCH
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --omit=peer --ignore-scripts --no-audit --no-fund \
      --cpu="$([ "$TARGETARCH" = amd64 ] && echo x64 || echo "$TARGETARCH")" \
 && find node_modules -type f \( -name '*.d.ts' -o -name '*.d.cts' -o -name '*.d.mts' -o -name '*.map' -o -iname 'readme*' -o -iname 'changelog*' \) -delete \
 && find node_modules -type d \( -name test -o -name tests -o -name docs -o -name example -o -name examples \) -prune -exec rm -rf {} + \
 && rm -rf node_modules/zod/src node_modules/typescript node_modules/@typescript

# The files of the API page, at the version that the lock file names.
FROM --platform=$BUILDPLATFORM ${NODE_IMAGE} AS docs
WORKDIR /docs
COPY package-lock.json .npmrc ./
RUN version=$(node -p "require('./package-lock.json').packages['node_modules/swagger-ui-dist'].version") \
 && rm package-lock.json && npm pack --silent "swagger-ui-dist@$version" \
 && tar -xzf ./*.tgz --strip-components=1 package/swagger-ui.css package/swagger-ui-bundle.js package/LICENSE && rm ./*.tgz .npmrc

FROM ${NODE_IMAGE} AS app
# Nothing at run time installs anything.
RUN rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /usr/local/bin/yarn* /opt/yarn* \
      /usr/bin/apt* /usr/bin/dpkg* /usr/lib/apt /var/lib/apt /var/cache/apt
WORKDIR /app
ENV NODE_ENV=production NODE_COMPILE_CACHE=/app/.compiled
# A small young generation, and one arena, which gives back the 19 MiB of each password hash: less memory for a tenth of the
# rate at most. Huge pages, where the host lends them, take 3 % off a hash. The same in src/embedded/shop.ts.
ENV NODE_OPTIONS="--max-semi-space-size=4 --v8-pool-size=1" MALLOC_ARENA_MAX=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
COPY --from=dependencies /app/node_modules node_modules
# The modes of a clone made under a umask of 077 are not for the user that runs.
COPY --chmod=755 package.json ./
COPY --chmod=755 src src
# Compiled once here instead of at every start: the root is read-only then, and a start costs half. The cache is named
# by the number of the user that made it, and is looked for by that of the user that runs.
RUN node src/main.ts 2>/dev/null || node -e "Promise.all([...['auth', 'products', 'orders', 'notifications'].map((r) => import('/app/src/' + r + '/index.ts')), import('/app/src/table.ts').then((m) => m.table()), ...['process', 'migrate'].map((m) => import('/app/src/platform/' + m + '.ts'))]).then(() => require('node:module').flushCompileCache())" \
 && for dir in .compiled/*-0; do mv "$dir" "${dir%0}10001"; done && chmod -R a+rX .compiled
USER 10001:10001
EXPOSE 3000 9090
ARG VERSION=0.0.0 REVISION=unknown CREATED
LABEL org.opencontainers.image.title="bodega-app" \
      org.opencontainers.image.description="A shop backend: the roles auth, products, orders and notifications, and migrate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENTRYPOINT ["node", "/app/src/main.ts"]

FROM ${NGINX_IMAGE} AS edge
USER 0
RUN rm -rf /usr/bin/apt* /usr/bin/dpkg* /usr/lib/apt /var/lib/apt /var/cache/apt
COPY --from=docs /docs /edge/docs
COPY --chmod=755 src/edge /edge
ENV EDGE_DOCS=/edge/docs EDGE_DIR=/tmp/edge
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGQUIT
ARG VERSION=0.0.0 REVISION=unknown CREATED
LABEL org.opencontainers.image.title="bodega-edge" \
      org.opencontainers.image.description="The public door of Bodega: nginx, its decisions made from the route table" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENTRYPOINT ["/bin/sh", "/edge/start.sh"]
CMD []
