# Node.js and npm. COI_NODE_OLDEST, COI_NODE_MAJOR, COI_NPM_MAJOR, COI_NPM_ARCH, COI_REGISTRY
# The distribution's node where it is recent; else the npm registry's build of
# it. npm is always the registry's: the distributions cut it into 400 packages.
fetch() { # NAME MAJOR TARGET: the newest version of that major, verified
    curl -fsSL --retry 3 --connect-timeout 20 --max-time 600 \
        -H 'Accept: application/vnd.npm.install-v1+json' "$COI_REGISTRY/$1" -o "$3.json"
    jq -er --arg major "$2" '
        [.versions[] | select(.version | test("^" + $major + "\\.[0-9]+\\.[0-9]+$"))]
        | sort_by(.version | split(".") | map(tonumber)) | last
        | .version, .dist.tarball, .dist.integrity' "$3.json" > "$3.txt"
    { read -r version; read -r url; read -r integrity; } < "$3.txt"
    echo "$1 $version"
    curl -fsSL --retry 3 --connect-timeout 20 --max-time 900 "$url" -o "$3"
    sum="sha512-$(openssl dgst -sha512 -binary "$3" | base64 -w0)"
    # integrity may list several digests: one of them must be this one
    case " $integrity " in
        *" $sum "*) ;;
        *)
            echo "$url does not have the sha512 that the registry states" >&2
            exit 1
            ;;
    esac
}
work=$(mktemp -d)
candidate=$(apt-cache policy nodejs | sed -n 's/^ *Candidate: *\([0-9]*\).*/\1/p')
if [ "${candidate:-0}" -ge "$COI_NODE_OLDEST" ]; then
    apt-get install -qy --no-install-recommends nodejs
else
    fetch "node-linux-$COI_NPM_ARCH" "$COI_NODE_MAJOR" "$work/node.tgz"
    tar -xzf "$work/node.tgz" -C "$work" --no-same-owner
    install -m 755 "$work/package/bin/node" /usr/local/bin/node
    rm -rf "$work/package"
fi
fetch npm "$COI_NPM_MAJOR" "$work/npm.tgz"
mkdir -p /usr/local/lib/node_modules
rm -rf /usr/local/lib/node_modules/npm
tar -xzf "$work/npm.tgz" -C "$work" --no-same-owner
mv "$work/package" /usr/local/lib/node_modules/npm
chmod -R u=rwX,go=rX /usr/local/lib/node_modules/npm
ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -sf ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
chmod 755 /usr/local/lib/node_modules/npm/bin/np?-cli.js
printf 'prefix=/usr/local\nupdate-notifier=false\nfund=false\naudit=false\n' \
    >> /usr/local/lib/node_modules/npm/npmrc
rm -rf "$work"
node --version
npm --version
